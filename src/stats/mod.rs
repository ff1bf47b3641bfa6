//! Statistics: numbers in, numbers with their bounds out. Pure; may depend on `model` only. Every function names the source of
//! its formula, and is tested with numbers that other programs computed.

mod calibration;

pub use calibration::{Calibrated, Known, calibrated};
