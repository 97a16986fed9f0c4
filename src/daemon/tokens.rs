//! The configured tokens: opened whether they are there or not, recorded when they come and go.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::DaemonError;
use crate::clock::{Clock, Entropy, random_uuid};
use crate::config::Config;
use crate::disk::Disks;
use crate::kms::{Account, Kms, TokenReport, hsm_event};
use crate::ram::Caller;
use crate::token::{Token, TokenParts, TokenState};
use crate::trail::Trail;

/// Says that a token has come back.
pub(super) type Back = Arc<Notify>;

/// What it takes to open disks again.
#[derive(Clone)]
pub(super) struct Returning {
    pub(super) back: Back,
    pub(super) caller: Caller,
}

/// How often pairs of old imports are destroyed and orphans counted.
const TEND_INTERVAL: Duration = Duration::from_secs(600);

/// Opened tokens.
pub(super) struct Hsms {
    pub(super) tokens: Vec<Arc<Token>>,
    pub(super) back: Back,
}

/// Opens the tokens, and gives each the time of one call to be there: disks are to be opened next.
pub(super) fn open(
    config: &Config,
    (clock, entropy): (&Arc<dyn Clock>, &Arc<dyn Entropy>),
    (trail, account): (&Arc<Trail>, &Account),
) -> Result<Hsms, DaemonError> {
    let back = Back::default();
    let mut tokens = Vec::new();
    for settings in &config.hsm {
        let recorder = Recorder {
            name: settings.name.clone(),
            trail: Arc::clone(trail),
            account: account.clone(),
            entropy: Arc::clone(entropy),
            back: Arc::clone(&back),
        };
        let parts = TokenParts {
            settings: settings.clone(),
            clock: Arc::clone(clock),
            entropy: Arc::clone(entropy),
            on_change: Box::new(move |state| recorder.record(state)),
        };
        tokens.push(Arc::new(Token::open(parts).map_err(DaemonError::Start)?));
    }
    for (token, settings) in tokens.iter().zip(&config.hsm) {
        token.settle(settings.timeout);
    }
    Ok(Hsms { tokens, back })
}

/// Tells log and trail how a token is.
struct Recorder {
    name: String,
    trail: Arc<Trail>,
    account: Account,
    entropy: Arc<dyn Entropy>,
    back: Back,
}

impl Recorder {
    fn record(&self, state: &TokenState) {
        let hsm = self.name.as_str();
        match state {
            TokenState::Up { found, .. } => tracing::info!(hsm, %found, "the HSM is in use"),
            TokenState::Down { cause, .. } => tracing::warn!(
                hsm,
                %cause,
                "the HSM is not available: its keys cannot be used, attached disks go on"
            ),
        }
        let caller = Caller::system(random_uuid(&*self.entropy));
        let event = hsm_event(self.account.actor(&caller), hsm, state);
        if let Err(error) = self.trail.record(&event) {
            tracing::error!(hsm, %error, "the state of the HSM could not be recorded");
        }
        if matches!(state, TokenState::Up { .. }) {
            self.back.notify_one();
        }
    }
}

/// Each token in a line, for the banner.
pub(super) fn shown(kms: &Kms) -> Vec<String> {
    let line = |report: TokenReport| match report.state {
        TokenState::Up { found, .. } => format!("{}: {found}", report.name),
        TokenState::Down { cause, .. } => format!("{}: NOT AVAILABLE: {cause}", report.name),
    };
    kms.tokens().into_iter().map(line).collect()
}

/// Opens disks that were attached while their token was away, as soon as one is back.
pub(super) async fn reopen_disks(returning: Returning, disks: Arc<Disks>) {
    loop {
        returning.back.notified().await;
        let (disks, caller) = (Arc::clone(&disks), returning.caller.clone());
        match tokio::task::spawn_blocking(move || disks.reopen_missing(&caller)).await {
            Ok(Ok(recovery)) => {
                if recovery.reopened > 0 {
                    tracing::info!(attached = recovery.reopened, "disks open, their HSM is back");
                }
                for (disk, error) in &recovery.failed {
                    tracing::error!(%disk, %error, "attached disk not opened");
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "attached disks were not opened again"),
            Err(error) => tracing::error!(%error, "opening disks again ended abnormally"),
        }
    }
}

/// Looks after what is in the tokens.
pub(super) async fn tend(kms: Arc<Kms>) {
    let mut ticks = tokio::time::interval(TEND_INTERVAL);
    loop {
        ticks.tick().await;
        let kms = Arc::clone(&kms);
        if let Err(error) = tokio::task::spawn_blocking(move || kms.sweep_tokens()).await {
            tracing::error!(%error, "looking after the tokens ended abnormally");
        }
    }
}
