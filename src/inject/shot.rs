//! Firing at one target: the request, the answer, and the wait for the proof of effect, each of them logged.

use super::stage::Stage;
use crate::cluster::{ClusterError, Failed};
use crate::evidence::Event;
use crate::fault::{FaultSpec, FaultTarget};
use crate::model::{Interval, Mono};
use crate::world::RecordError;
use futures::future::BoxFuture;
use std::time::Duration;

/// How long an effect may take to show, on top of what the fault itself takes.
pub(super) const PROOF_LIMIT: Duration = Duration::from_secs(30);

/// An effect that was seen.
#[derive(Debug, Clone)]
pub(super) struct Proof {
    /// It took effect within.
    pub(super) effect: Interval,
    /// What was seen.
    pub(super) text: String,
}

/// A call that did not do what it should.
#[derive(Debug, Clone)]
pub(super) struct Miss {
    /// In words.
    pub(super) why: String,
    /// It surely had no effect; else it may have had one, and the proof decides.
    pub(super) definite: bool,
    /// The answer was "not now": asking again may help.
    pub(super) later: bool,
}

impl Miss {
    /// A call that surely had no effect.
    pub(super) fn definite(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            definite: true,
            later: false,
        }
    }
}

impl From<ClusterError> for Miss {
    fn from(error: ClusterError) -> Self {
        Self {
            definite: matches!(
                error.failed,
                Failed::Forbidden
                    | Failed::NotFound
                    | Failed::Conflict
                    | Failed::Rejected(_)
                    | Failed::Unauthorized
                    | Failed::Throttled
            ),
            later: error.failed == Failed::Throttled,
            why: error.to_string(),
        }
    }
}

/// What a call can say at once.
pub(super) enum Called {
    /// It was accepted; the effect is still to be seen.
    Accepted,
    /// The effect was seen by whoever did it.
    Proven(String),
}

/// Fires at one target. `call` does it; `watch` resolves when the effect was seen from outside. Whichever comes first proves it.
/// True when it was proven.
///
/// # Errors
/// When the log cannot be written.
pub(super) fn shoot<'a, W: Future<Output = Result<Proof, String>> + Send + 'a>(
    stage: &'a Stage,
    spec: &'a FaultSpec,
    target: &'a FaultTarget,
    call: impl Future<Output = Result<Called, Miss>> + Send + 'a,
    watch: impl FnOnce(Mono) -> W + Send + 'a,
) -> BoxFuture<'a, Result<bool, RecordError>> {
    Box::pin(shoot_at(stage, spec, target, call, watch))
}

async fn shoot_at<W: Future<Output = Result<Proof, String>>>(
    stage: &Stage,
    spec: &FaultSpec,
    target: &FaultTarget,
    call: impl Future<Output = Result<Called, Miss>>,
    watch: impl FnOnce(Mono) -> W,
) -> Result<bool, RecordError> {
    let clock = stage.recorder.clock();
    let requested = clock.now();
    stage.recorder.record(Event::FaultRequested {
        fault: spec.name.clone(),
        target: target.clone(),
        at: requested,
    })?;
    let answer = async {
        let answer = call.await;
        let at = clock.now();
        stage.recorder.record(Event::FaultAnswered {
            fault: spec.name.clone(),
            target: target.clone(),
            at,
            error: answer.as_ref().err().map(|miss| miss.why.clone()),
        })?;
        Ok::<_, RecordError>((answer, at))
    };
    let mut watch = std::pin::pin!(watch(requested));
    let mut answer = std::pin::pin!(answer);
    let seen = tokio::select! {
        seen = &mut watch => {
            // A call in flight is never aborted: it may still arrive. It ends within its own limit.
            drop(answer.await?);
            seen
        }
        answered = &mut answer => match answered? {
            (Ok(Called::Proven(text)), at) => Ok(Proof {
                effect: Interval { lower: requested, upper: at },
                text,
            }),
            (Err(miss), _) if miss.definite => Err(miss.why),
            (Ok(Called::Accepted), _) => watch.await,
            (Err(miss), _) => watch.await.map_err(|why| format!("{why} ({})", miss.why)),
        }
    };
    let proven = seen.is_ok();
    stage.recorder.record(match seen {
        Ok(proof) => Event::FaultProven {
            fault: spec.name.clone(),
            target: target.clone(),
            effect: proof.effect,
            proof: proof.text,
        },
        Err(why) => Event::FaultNotProven {
            fault: spec.name.clone(),
            target: target.clone(),
            why,
        },
    })?;
    Ok(proven)
}

/// How many of several shots were proven.
///
/// # Errors
/// When the log could not be written in one of them.
pub(super) async fn count(
    shots: impl IntoIterator<Item = impl Future<Output = Result<bool, RecordError>>>,
) -> Result<usize, RecordError> {
    let mut proven = 0;
    for shot in futures::future::join_all(shots).await {
        proven += usize::from(shot?);
    }
    Ok(proven)
}

/// For calls whose effect nobody can see from outside.
pub(super) async fn unseen(_requested: Mono) -> Result<Proof, String> {
    std::future::pending().await
}

/// Asks again and again until there is a proof, or `limit` is over.
pub(super) async fn poll<A: Future<Output = Result<Option<String>, String>>>(
    stage: &Stage,
    requested: Mono,
    limit: Duration,
    mut ask: impl FnMut() -> A,
) -> Result<Proof, String> {
    let clock = stage.recorder.clock();
    let deadline = requested.plus(limit);
    let mut why = String::new();
    let mut lower = requested;
    loop {
        let asked = clock.now();
        match ask().await {
            Ok(Some(text)) => {
                return Ok(Proof {
                    effect: Interval {
                        lower,
                        upper: clock.now(),
                    },
                    text,
                });
            }
            // Not yet when it was asked: so it came later than that.
            Ok(None) => lower = asked,
            Err(error) => why = format!(" ({error})"),
        }
        if clock.now() >= deadline {
            return Err(format!("no effect was seen within {} s{why}", limit.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
