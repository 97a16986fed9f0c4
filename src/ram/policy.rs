//! A policy: statements that allow or deny actions on resources under conditions.

use std::fmt;

use super::condition::{Circumstances, Condition, Fault};
use super::document::{Document, RawStatement};
use super::{Decision, wildcard};

/// Longest policy document, in bytes; as published for custom policies.
pub const POLICY_BYTES_MAX: usize = 6144;

/// Longest action or resource that is matched against wildcards, in bytes. A longer one is met by
/// no statement, so that nobody can make an evaluation slow.
pub const NAME_BYTES_MAX: usize = 2048;

/// A policy of a user or a role.
#[derive(Debug)]
pub struct Policy {
    statements: Vec<Statement>,
}

/// Why a text is no policy.
#[derive(Debug)]
pub enum PolicyError {
    /// It is longer than it may be.
    TooLong {
        /// Bytes it may have.
        max: usize,
    },
    /// It is no JSON, or not of this shape.
    Json(serde_json::Error),
    /// Its `Version` is not `1`.
    Version,
    /// It has no statement.
    Empty,
    /// A statement lacks this member, or has it empty.
    Missing(&'static str),
    /// A statement has this member, and such a policy has none.
    Unexpected(&'static str),
    /// An effect is neither `Allow` nor `Deny`.
    Effect(String),
    /// An action is neither `*` nor `<service>:<name>`.
    Action(String),
    /// A resource is neither `*` nor `acs:<service>:<region>:<account>:<relative>`.
    Resource(String),
    /// A principal is none that can be.
    Principal(String),
    /// There is no condition operator of this name.
    Operator(String),
    /// A condition value is none of its operator's type.
    Value {
        /// The operator.
        operator: String,
        /// The value.
        value: String,
    },
}

/// What a statement does when it is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// One statement, without the principals that some policies name.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) effect: Effect,
    /// In lower case: actions are told apart without regard to case.
    actions: Vec<String>,
    resources: Vec<String>,
    conditions: Vec<Condition>,
}

impl Policy {
    /// Reads a policy document.
    ///
    /// # Errors
    /// [`PolicyError`]: the first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let statements = read_document(text, POLICY_BYTES_MAX)?;
        let statements = statements.into_iter().map(|raw| {
            if raw.principal.is_some() {
                return Err(PolicyError::Unexpected("Principal"));
            }
            Statement::read(raw, check_resource)
        });
        Ok(Self { statements: statements.collect::<Result<_, _>>()? })
    }

    /// What this policy alone says of `action` on `resource`.
    pub fn decide(
        &self,
        action: &str,
        resource: &str,
        circumstances: &Circumstances<'_>,
    ) -> Decision {
        decide(self.statements.iter(), action, resource, circumstances)
    }
}

/// The statements of a document, each yet to be read.
pub(super) fn read_document(text: &str, max: usize) -> Result<Vec<RawStatement>, PolicyError> {
    if text.len() > max {
        return Err(PolicyError::TooLong { max });
    }
    let document: Document = serde_json::from_str(text).map_err(PolicyError::Json)?;
    if document.version != "1" {
        return Err(PolicyError::Version);
    }
    if document.statement.is_empty() {
        return Err(PolicyError::Empty);
    }
    Ok(document.statement)
}

/// What `statements` together say.
pub(super) fn decide<'s>(
    statements: impl Iterator<Item = &'s Statement>,
    action: &str,
    resource: &str,
    circumstances: &Circumstances<'_>,
) -> Decision {
    if action.len() > NAME_BYTES_MAX || resource.len() > NAME_BYTES_MAX {
        return Decision::ImplicitDeny;
    }
    let action = action.to_lowercase();
    let mut decision = Decision::ImplicitDeny;
    for statement in statements {
        if statement.is_met(&action, resource, circumstances) {
            match statement.effect {
                Effect::Deny => return Decision::ExplicitDeny,
                Effect::Allow => decision = Decision::Allow,
            }
        }
    }
    decision
}

impl Statement {
    /// Reads all but the principal. Each resource must pass `check`.
    pub(super) fn read(raw: RawStatement, check: fn(&str) -> bool) -> Result<Self, PolicyError> {
        let effect = match raw.effect.as_str() {
            "Allow" => Effect::Allow,
            "Deny" => Effect::Deny,
            _ => return Err(PolicyError::Effect(raw.effect)),
        };
        let actions = raw.action.into_vec();
        if actions.is_empty() {
            return Err(PolicyError::Missing("Action"));
        }
        if let Some(wrong) = actions.iter().find(|action| !is_action(action)) {
            return Err(PolicyError::Action(wrong.clone()));
        }
        let resources = raw.resource.map(super::document::Texts::into_vec).unwrap_or_default();
        if resources.is_empty() {
            return Err(PolicyError::Missing("Resource"));
        }
        if let Some(wrong) = resources.iter().find(|resource| !check(resource)) {
            return Err(PolicyError::Resource(wrong.clone()));
        }
        let mut conditions = Vec::new();
        for (operator, keys) in raw.condition.into_iter().flat_map(|operators| operators.0) {
            for (key, values) in keys.0 {
                let values = values.into_vec();
                if values.is_empty() {
                    return Err(PolicyError::Missing("Condition"));
                }
                let condition = Condition::read(&operator, &key, values);
                conditions.push(condition.map_err(|fault| match fault {
                    Fault::Operator => PolicyError::Operator(operator.clone()),
                    Fault::Value(value) => PolicyError::Value { operator: operator.clone(), value },
                })?);
            }
        }
        let actions = actions.iter().map(|action| action.to_lowercase()).collect();
        Ok(Self { effect, actions, resources, conditions })
    }

    /// The first action that is neither all nor one of `service` (`kms:`).
    pub(super) fn action_of_another(&self, service: &str) -> Option<&str> {
        let other = |action: &&String| *action != "*" && !action.starts_with(service);
        self.actions.iter().find(other).map(String::as_str)
    }

    fn is_met(&self, action: &str, resource: &str, circumstances: &Circumstances<'_>) -> bool {
        self.actions.iter().any(|pattern| wildcard::matches(pattern, action))
            && self.resources.iter().any(|pattern| wildcard::matches(pattern, resource))
            && self.conditions.iter().all(|condition| condition.holds(circumstances))
    }
}

/// `*`, or a service and a name, both with wildcards.
fn is_action(text: &str) -> bool {
    let is_word = |word: &str| {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"*?-_".contains(&byte);
        !word.is_empty() && word.bytes().all(is_known)
    };
    text == "*" || text.split_once(':').is_some_and(|(one, two)| is_word(one) && is_word(two))
}

/// `*`, or five parts of which wildcards may stand for some.
fn check_resource(text: &str) -> bool {
    text == "*" || text.starts_with("acs:") && text.split(':').count() >= 5
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { max } => {
                write!(f, "The policy is too long: it may have {max} bytes.")
            }
            Self::Json(error) => write!(f, "The policy cannot be read: {error}."),
            Self::Version => f.write_str("The policy's Version must be \"1\"."),
            Self::Empty => f.write_str("The policy needs a Statement."),
            Self::Missing(member) => write!(f, "A statement needs a value of {member}."),
            Self::Unexpected(member) => write!(f, "A statement of such a policy has no {member}."),
            Self::Effect(text) => write!(f, "The Effect is Allow or Deny, not {text:?}."),
            Self::Action(text) => write!(
                f,
                "The Action {text:?} is wrong: it is * or <service>:<action>, as in kms:Encrypt."
            ),
            Self::Resource(text) => write!(
                f,
                "The Resource {text:?} is wrong: it is * or \
                 acs:<service>:<region>:<account>:<relative>."
            ),
            Self::Principal(text) => write!(f, "The Principal {text:?} is wrong."),
            Self::Operator(text) => write!(f, "There is no condition operator {text:?}."),
            Self::Value { operator, value } => {
                write!(f, "The condition {operator} cannot compare with {value:?}.")
            }
        }
    }
}

impl std::error::Error for PolicyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            _ => None,
        }
    }
}
