//! Lists in parts, in either way of the cloud: numbered pages, or a token to go on from.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::answer::Answer;
use super::error::ApiError;
use super::rpc::{Paging, Parameters};
use crate::catalog::Page;

/// Entries at most between two tokens.
const RESULTS_MAX: u64 = 500;

/// Which part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    /// `PageNumber` and `PageSize`.
    Numbered(Paging),
    /// `MaxResults` and `NextToken`.
    Following {
        /// Entries that were given before.
        offset: u64,
        /// Entries at most.
        limit: u64,
    },
}

impl Pages {
    /// As the parameters say; a token is one of ours.
    pub(super) fn of(parameters: &Parameters) -> Result<Self, ApiError> {
        let results = parameters.integer("MaxResults", 1..=RESULTS_MAX)?;
        let token = parameters.filled("NextToken").map(read_token).transpose()?;
        match (results, token) {
            (None, None) => Ok(Self::Numbered(parameters.paging()?)),
            (limit, offset) => {
                Ok(Self::Following { offset: offset.unwrap_or(0), limit: limit.unwrap_or(10) })
            }
        }
    }

    /// The same in the catalog's words.
    pub(super) const fn page(self) -> Page {
        match self {
            Self::Numbered(paging) => paging.page(),
            Self::Following { offset, limit } => Page { offset, limit },
        }
    }

    /// The list, wrapped twice, and how to go on.
    pub(super) fn answer(
        self,
        answer: Answer,
        (outer, inner): (&str, &str),
        (total, items): (u64, Vec<Value>),
    ) -> Answer {
        let (offset, limit) = match self {
            Self::Numbered(paging) => {
                return answer.with_page(outer, inner, (paging, total, items));
            }
            Self::Following { offset, limit } => (offset, limit),
        };
        let next = offset.saturating_add(limit);
        let token =
            if next < total { URL_SAFE_NO_PAD.encode(next.to_string()) } else { String::new() };
        answer.with(outer, json!({inner: items})).with("TotalCount", total).with("NextToken", token)
    }
}

fn read_token(token: &str) -> Result<u64, ApiError> {
    let offset = URL_SAFE_NO_PAD.decode(token).ok().and_then(|text| String::from_utf8(text).ok());
    let offset = offset.and_then(|text| text.parse().ok()).filter(|offset| *offset < 1 << 32);
    offset.ok_or_else(|| ApiError::invalid("NextToken"))
}
