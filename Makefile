.PHONY: help demo test check lab-up lab-down

help:
	@echo "make demo      kill the driver of a real Spark job in the embedded lab, and print the verdict"
	@echo "make test      run all tests"
	@echo "make check     formatting and lints"
	@echo "make lab-up    boot the embedded cluster and leave it running"
	@echo "make lab-down  take it down"

demo:
	@scripts/demo.sh

test:
	@scripts/test.sh

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

lab-up:
	@scripts/prepare.sh build lab
	@cargo run --release --quiet -- lab up

lab-down:
	@cargo run --release --quiet -- lab down
