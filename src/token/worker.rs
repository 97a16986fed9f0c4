//! One thread's session, and how a call is carried out in it: again, where the way could be mended.

use std::sync::Arc;

use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::RvError;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use super::failure::{Class, Code, TokenError};
use super::link::{Footing, Link};
use super::object::Object;
use super::select;

/// What a call needs of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Uses keys.
    Read,
    /// Makes or destroys objects.
    Write,
}

/// What a call may do with the token.
pub(super) struct Desk<'a> {
    link: &'a Link,
    footing: Footing,
    library: &'a Pkcs11,
    pub(super) session: &'a Session,
}

impl Desk<'_> {
    pub(super) fn find(&self, object: &Object) -> Result<ObjectHandle, TokenError> {
        self.link.find(self.session, self.footing, object)
    }

    /// Whether the token does its work.
    pub(super) fn probe(&self) -> Result<(), TokenError> {
        self.link.probe(self.library, self.session, self.footing)
    }
}

/// One thread's own.
pub(super) struct Worker {
    pub(super) link: Arc<Link>,
    session: Option<(Footing, Access, Session)>,
}

impl Worker {
    pub(super) const fn new(link: Arc<Link>) -> Self {
        Self { link, session: None }
    }

    /// Does `work`, once more if what failed was the way to the token and could be mended.
    pub(super) fn perform<T>(
        &mut self,
        access: Access,
        work: &mut impl FnMut(&Desk<'_>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let footing = match &self.session {
            Some((footing, ..)) if self.link.stands(*footing) => *footing,
            _ => self.link.footing()?,
        };
        let error = match self.attempt(footing, access, work) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let class = error.class();
        let footing = match class {
            Class::Busy | Class::Lasting => return Err(error),
            Class::Reconnect => self.link.mend(footing)?,
            Class::Ambiguous => {
                let probed = self.attempt(footing, Access::Read, &mut |desk| desk.probe());
                match probed {
                    Ok(()) => footing,
                    Err(TokenError::Busy | TokenError::Silent) => return Err(error),
                    Err(_) => self.link.mend(footing)?,
                }
            }
        };
        match self.attempt(footing, access, work) {
            Err(error) if class == Class::Ambiguous && error.class() == Class::Ambiguous => {
                // Twice the same, and a probe between them that passed.
                Err(error.settled())
            }
            done => done,
        }
    }

    fn attempt<T>(
        &mut self,
        footing: Footing,
        access: Access,
        work: &mut impl FnMut(&Desk<'_>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let Self { link, session: own } = self;
        let module = link.module()?;
        let call = module.enter(link.timeout)?;
        let library = module.library(&call);
        let kept = own.take();
        if footing.generation != call.generation {
            // Another token's mender has initialised the library anew; nothing of ours is left.
            let (code, function) = (RvError::CryptokiNotInitialized, Function::OpenSession);
            return Err(TokenError::Code(Code { code, function }));
        }
        let session = match kept {
            Some((on, with, session)) if (on, with) == (footing, access) => session,
            other => {
                if let Some((on, _, session)) = other
                    && on.generation == call.generation
                {
                    let _ = session.close();
                }
                match access {
                    Access::Read => select::open_to_read_no_drop(library, footing.slot)?,
                    Access::Write => library.open_rw_session_no_drop(footing.slot)?,
                }
            }
        };
        let done = work(&Desk { link, footing, library, session: &session });
        // A session that has seen an error may have an operation left open; another one is cheap.
        if done.is_ok() && access == Access::Read {
            *own = Some((footing, access, session));
        } else {
            let _ = session.close();
        }
        done
    }

    /// Closes the session.
    pub(super) fn put_away(&mut self) {
        let Some((on, _, session)) = self.session.take() else { return };
        if let Ok(module) = self.link.module()
            && let Ok(call) = module.enter(self.link.timeout)
            && on.generation == call.generation
        {
            let _ = session.close();
        }
    }
}
