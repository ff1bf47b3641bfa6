//! `clean`: finds what a killed run left behind, by label only, from any machine, and takes it back.

use super::arguments::{CleanArguments, Global};
use super::cluster::Connected;
use super::exit::{Exit, Failure};
use super::run::describe;
use super::streams::Streams;
use crate::cluster::{Means, find_labelled, undo};
use std::io::{BufRead as _, IsTerminal as _};
use std::time::Duration;

/// Lists, asks, removes. Doing it twice is the same as doing it once.
pub(super) async fn clean(global: Global, arguments: CleanArguments, streams: &mut Streams) -> Result<Exit, Failure> {
    let connected = Connected::open(&global, streams).await?;
    let result = sweep(&connected, &global, &arguments, streams).await;
    connected.close(streams).await?;
    result
}

async fn sweep(
    connected: &Connected,
    global: &Global,
    arguments: &CleanArguments,
    streams: &mut Streams,
) -> Result<Exit, Failure> {
    let found = find_labelled(
        &connected.cluster,
        arguments.run.as_deref(),
        global.namespace.as_deref(),
    )
    .await?;
    for warning in &found.unreadable {
        streams.note(&format!("chaosrun: {warning}"));
    }
    if found.undos.is_empty() {
        streams.say("nothing to clean: nothing carries chaosrun's labels");
        return Ok(if found.unreadable.is_empty() {
            Exit::Pass
        } else {
            Exit::NotReverted
        });
    }
    streams.say("found, by chaosrun's labels:");
    for item in &found.undos {
        streams.say(&format!("  {}", describe(item)));
    }
    if global.dry_run {
        return Ok(Exit::Pass);
    }
    if !arguments.yes && !confirmed(streams)? {
        streams.say("nothing was touched");
        return Ok(Exit::Pass);
    }
    let mut left = Vec::new();
    let means = Means {
        limit: Duration::from_secs(arguments.timeout),
        force: arguments.force,
    };
    for item in &found.undos {
        if let Err(error) = undo(&connected.cluster, item, means).await {
            streams.note(&format!("chaosrun: {error}"));
            left.push(item);
        }
    }
    if left.is_empty() {
        streams.say(&format!("took back {}; nothing is left", found.undos.len()));
        return Ok(Exit::Pass);
    }
    streams.note("chaosrun: still there:");
    for item in left {
        streams.note(&format!("  {}", describe(item)));
    }
    Ok(Exit::NotReverted)
}

fn confirmed(streams: &mut Streams) -> Result<bool, Failure> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Failure::Usage(
            "clean asks before it removes, and there is no terminal to ask: give --yes".to_owned(),
        ));
    }
    streams.note("take all of it back? [y/N]");
    let mut answer = String::new();
    // An unreadable answer is a no.
    drop(input.lock().read_line(&mut answer));
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
