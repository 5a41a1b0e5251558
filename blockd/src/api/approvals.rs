//! The paths of approvals and of the appliance's time.

use super::verb::{ADMINISTER, AUDIT, Call, LOOK, Verb, critical, guarded, verb};
use crate::daemon::Daemon;
use crate::error::Result;
use crate::gate::stamp;
use axum::http::Method;
use control::{ApplianceTime, Approval, ApprovalState, ClockJump, Verdict};
use std::sync::Arc;

/// Every verb.
pub fn verbs() -> Vec<Verb> {
    vec![
        verb(
            Method::GET,
            "/v1/approvals",
            AUDIT,
            "Requests that need a guard, newest first",
            |daemon, _: &Call| Ok(daemon.approvals().list()),
        ),
        verb(
            Method::GET,
            "/v1/approvals/{approval}",
            AUDIT,
            "One of them, with what a guard signs",
            |daemon, call: &Call| daemon.approvals().get(call.name("approval")),
        ),
        verb(
            Method::POST,
            "/v1/approvals/{approval}/approve",
            guarded(),
            "Lets the request pass, once, with the signature of a guard's key",
            |daemon, call: &Call<(), Verdict>| decide(daemon, call, ApprovalState::Approved),
        ),
        verb(
            Method::POST,
            "/v1/approvals/{approval}/deny",
            guarded(),
            "Says no to the request, with the signature of a guard's key",
            |daemon, call: &Call<(), Verdict>| decide(daemon, call, ApprovalState::Denied),
        ),
        verb(
            Method::GET,
            "/v1/clock",
            LOOK,
            "The appliance's time, and whether it jumped",
            |daemon, _: &Call| Ok(time(daemon)),
        ),
        critical(
            Method::POST,
            "/v1/clock/accept",
            ADMINISTER.whole(),
            "Says that the host's time is right after a jump; until then nothing is deleted",
            |daemon, _: &Call| Ok(daemon.appliance_clock().jump().is_some()),
            |daemon, _: &Call| {
                daemon.appliance_clock().accept()?;
                daemon.keeper().wake();
                Ok(time(daemon))
            },
        ),
    ]
}

fn decide(daemon: &Arc<Daemon>, call: &Call<(), Verdict>, verdict: ApprovalState) -> Result<Approval> {
    daemon.approvals().decide(call.name("approval"), &call.caller, verdict, &call.body.signature)
}

fn time(daemon: &Daemon) -> ApplianceTime {
    let jump = daemon.appliance_clock().jump();
    let jump =
        jump.map(|jump| ClockJump { from: stamp(jump.from).to_string(), to: stamp(jump.to).to_string() });
    ApplianceTime { now: daemon.now().to_string(), jump }
}
