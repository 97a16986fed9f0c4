//! The way every call takes: permission, operation, record, answer.

use serde_json::Value;

use super::{Action, Kms, KmsError};
use crate::catalog::{CatalogError, Operation, Page};
use crate::metrics;
use crate::ram::{Caller, Conditions, KeyPolicy, Principal, RamError, ServiceActsAs};
use crate::trail::{Actor, Event, EventKind, ResourceType, Service, TrailError};

use super::state::Class;
use super::under_way::UseUnderWay;

/// Entries in one page of a list at most.
const PAGE_SIZE_MAX: u32 = 100;

/// Which page of a list, as published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// `PageNumber`, from 1.
    pub number: u32,
    /// `PageSize`, 1 to 100.
    pub size: u32,
}

impl Default for Paging {
    fn default() -> Self {
        Self { number: 1, size: 10 }
    }
}

impl Paging {
    pub(super) fn page(self) -> Result<Page, KmsError> {
        if self.number == 0 {
            return Err(KmsError::InvalidParameter("PageNumber"));
        }
        if !(1..=PAGE_SIZE_MAX).contains(&self.size) {
            return Err(KmsError::InvalidParameter("PageSize"));
        }
        let offset = u64::from(self.number - 1) * u64::from(self.size);
        Ok(Page { offset, limit: self.size.into() })
    }
}

/// One call under way, and what the trail will say of it.
pub(super) struct Call<'a> {
    pub(super) caller: &'a Caller,
    pub(super) action: Action,
    is_on_service_key: bool,
    request: Vec<(&'static str, Value)>,
    response: Vec<(&'static str, Value)>,
    resources: Vec<(ResourceType, String)>,
    permission: Option<&'static str>,
    is_recorded: bool,
    /// A use of a key; ends with the call.
    under_way: Option<UseUnderWay>,
}

impl Call<'_> {
    pub(super) fn request(&mut self, name: &'static str, value: impl Into<Value>) {
        self.request.push((name, value.into()));
    }

    pub(super) fn response(&mut self, name: &'static str, value: impl Into<Value>) {
        self.response.push((name, value.into()));
    }

    pub(super) fn about(&mut self, kind: ResourceType, name: &str) {
        if let (Some(under_way), ResourceType::Key) = (&self.under_way, kind) {
            under_way.is_of(name);
        }
        if !self.resources.iter().any(|(_, known)| known == name) {
            self.resources.push((kind, name.to_owned()));
        }
    }

    /// It is about a service key: a service acts in its own name.
    pub(super) const fn on_service_key(&mut self) {
        self.is_on_service_key = true;
    }

    /// From here on the caller needs this permission, not one that is called like the action.
    pub(super) const fn ask_for(&mut self, permission: &'static str) {
        self.permission = Some(permission);
    }

    /// Nothing happened that would be worth a record.
    pub(super) const fn needs_no_record(&mut self) {
        self.is_recorded = true;
    }
}

impl Kms {
    /// Runs `body` and records how it went, before the answer.
    pub(super) fn call<T>(
        &self,
        caller: &Caller,
        action: Action,
        body: impl FnOnce(&mut Call<'_>) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let mut call = Call {
            caller,
            action,
            is_on_service_key: false,
            request: Vec::new(),
            response: Vec::new(),
            resources: Vec::new(),
            permission: None,
            is_recorded: false,
            under_way: (action.class() == Class::Use).then(|| self.uses.begin()),
        };
        let begun = self.clock.monotonic();
        let outcome = self.check_standing(caller, action).and_then(|()| body(&mut call));
        let took = self.clock.monotonic().saturating_sub(begun);
        metrics::kms_call(action.as_str(), if outcome.is_ok() { "ok" } else { "refused" }, took);
        let event = match &outcome {
            Ok(_) if call.is_recorded => return outcome,
            // The record itself failed; a second try would have nothing else to say.
            Err(KmsError::Unrecorded(_)) => return outcome,
            Ok(_) => self.event(&call)?,
            Err(error) => self.event(&call)?.error(error.code(), &error.message()),
        };
        // On failure the outcome is dropped here, secrets and all.
        self.trail.record(&event).map_err(KmsError::Unrecorded)?;
        outcome
    }

    /// Records that a call was refused before it came to an operation (its parameters could not be
    /// read), and gives back the answer.
    pub fn refuse(&self, caller: &Caller, action: Action, error: KmsError) -> KmsError {
        match self.call(caller, action, |_| Err::<(), _>(error)) {
            Ok(()) => KmsError::NoPermission,
            Err(error) => error,
        }
    }

    /// Asks whether the caller may do this to a key that is there; its tags are among the
    /// conditions.
    pub(super) fn allow_key(&self, call: &Call<'_>, key_id: &str) -> Result<(), KmsError> {
        let mut conditions = conditions_of(call);
        let key_policy = match call.caller.principal {
            // Theirs is everything, or nothing, whatever tags and policies the key has.
            Principal::Root { .. } | Principal::System => None,
            _ => {
                conditions.key_tags = self.key_tags(key_id)?.into_iter().collect();
                self.own_policy(key_id)?
            }
        };
        let resource = self.account.key_arn(key_id);
        self.decide(call, &resource, &conditions, key_policy.as_ref())
    }

    /// Asks whether the caller may.
    pub(super) fn allow(&self, call: &Call<'_>, resource: &str) -> Result<(), KmsError> {
        self.decide(call, resource, &conditions_of(call), None)
    }

    fn decide(
        &self,
        call: &Call<'_>,
        resource: &str,
        conditions: &Conditions,
        key_policy: Option<&KeyPolicy>,
    ) -> Result<(), KmsError> {
        let action = match call.action {
            Action::CreateServiceKey => "kms:CreateServiceKey".to_owned(),
            action => format!("kms:{}", call.permission.unwrap_or(action.as_str())),
        };
        let who = &call.caller.principal;
        let decision = self.ram.decide_on_key(who, (&action, resource), conditions, key_policy)?;
        if decision.is_allowed() { Ok(()) } else { Err(KmsError::NoPermission) }
    }

    /// Makes a change, and its record within the same transaction.
    pub(super) fn commit(
        &self,
        call: &mut Call<'_>,
        operations: &[Operation],
    ) -> Result<(), KmsError> {
        let committed = self.commit_recorded(call, operations);
        if committed.is_err() {
            self.discard_objects(operations);
        }
        committed
    }

    fn commit_recorded(
        &self,
        call: &mut Call<'_>,
        operations: &[Operation],
    ) -> Result<(), KmsError> {
        let event = self.event(call)?;
        let leaving = self.leaving(operations)?;
        let mut refusal = None;
        let mut gate = || {
            let recorded = self.trail.record(&event).map_err(KmsError::Unrecorded);
            // What a token has of them goes now or never: after the commit nothing would know it.
            recorded.and_then(|()| self.destroy_objects(&leaving)).map_err(|error| {
                let shown = error.to_string();
                refusal = Some(error);
                Box::from(shown)
            })
        };
        let applied = self.catalog.apply(operations, &mut gate);
        match (applied, refusal) {
            (Ok(()), _) => {
                call.needs_no_record();
                Ok(())
            }
            (Err(CatalogError::Gate(_)), Some(error)) => Err(error),
            // If the gate had passed, the record of the failure follows that of the attempt.
            (Err(error), _) => Err(error.into()),
        }
    }

    fn event(&self, call: &Call<'_>) -> Result<Event, KmsError> {
        let account_id = &self.account.account_id;
        let acting = match call.is_on_service_key {
            true => ServiceActsAs::Itself,
            false => self.ram.acting(&call.caller.principal)?,
        };
        let actor = Actor {
            request_id: call.caller.request_id,
            account_id: account_id.clone(),
            region: self.account.region.clone(),
            source: call.caller.source.clone(),
            user_agent: call.caller.user_agent.clone(),
            user_identity: call.caller.user_identity(account_id, &acting),
        };
        let mut event = Event::new(Service::Kms, call.action.as_str(), actor);
        if call.action.class() == Class::Look {
            event = event.read_only();
        }
        if call.caller.principal == Principal::System || call.action == Action::CreateServiceKey {
            event = event.kind(EventKind::ServiceEvent);
        }
        for (kind, name) in &call.resources {
            event = event.resource(*kind, name);
        }
        for (name, value) in &call.request {
            event = event.request(name, value.clone());
        }
        for (name, value) in &call.response {
            event = event.response(name, value.clone());
        }
        Ok(event)
    }
}

fn conditions_of(call: &Call<'_>) -> Conditions {
    Conditions { is_service_key: call.is_on_service_key, ..Conditions::of(call.caller) }
}

impl From<RamError> for KmsError {
    fn from(error: RamError) -> Self {
        Self::Ram(error)
    }
}

impl From<TrailError> for KmsError {
    fn from(error: TrailError) -> Self {
        Self::Unrecorded(error)
    }
}
