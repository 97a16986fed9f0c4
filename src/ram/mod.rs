//! Who asks, and whether they may.
//!
//! Thin but true: the account's root has everything in its own account, the disk service has what
//! its role grants, nobody else has anything. Users, roles and policies find their place in
//! [`decide`]: it already answers with the three outcomes a policy evaluation has.

mod caller;
mod decision;

pub use caller::{Caller, Principal, ServiceActsAs};
pub use decision::{Decision, ECS_SERVICE, decide};
