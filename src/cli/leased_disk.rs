//! A disk for as long as one command runs: the daemon deletes it when nobody renews its lease.
//!
//! So an import or export that is killed leaves nothing behind, not even where the machine went
//! down with it.

use std::time::Duration;

use super::arguments::LOCAL_INSTANCE;
use super::client::{Client, ECS, OWN, text};
use super::disk::Lines;
use super::failure::Failure;
use crate::clock::{Clock, SystemClock};

/// How long the daemon keeps it without hearing from us.
const LEASE: Duration = Duration::from_secs(60);

/// How often it hears from us.
const RENEW_AFTER: Duration = Duration::from_secs(10);

/// A disk that goes when this is dropped, or soon after this process is gone.
pub(super) struct LeasedDisk<'a> {
    client: &'a Client,
    clock: SystemClock,
    id: String,
    renewed: Duration,
    is_mine: bool,
}

impl<'a> LeasedDisk<'a> {
    /// Makes one as `parameters` of CreateLocalDisk say.
    pub(super) fn create(client: &'a Client, parameters: &[(&str, &str)]) -> Result<Self, Failure> {
        let (clock, lease) = (SystemClock::new(), LEASE.as_secs().to_string());
        let parameters = [parameters, &[("LeaseSeconds", lease.as_str())]].concat();
        let renewed = clock.monotonic();
        let created = client.call(OWN, "CreateLocalDisk", &parameters)?;
        let id = text(&created, "DiskId").to_owned();
        Ok(Self { client, clock, id, renewed, is_mine: true })
    }

    /// As [`LeasedDisk::create`], and attaches it.
    pub(super) fn attach_new(
        client: &'a Client,
        parameters: &[(&str, &str)],
    ) -> Result<Self, Failure> {
        let disk = Self::create(client, parameters)?;
        let parameters = [("DiskId", disk.id.as_str()), ("InstanceId", LOCAL_INSTANCE)];
        client.call(ECS, "AttachDisk", &parameters)?;
        Ok(disk)
    }

    /// Its id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Where it is served.
    pub(super) fn uri(&self) -> Result<String, Failure> {
        let endpoints = self.client.call(OWN, "DescribeEndpoints", &[])?;
        let (unix, tcp) = (endpoints["NbdUnix"].as_str(), endpoints["NbdTcp"].as_str());
        let lines = Lines::new(&self.id, unix, tcp);
        lines.unix.or(lines.tcp).ok_or_else(|| {
            Failure::new("the daemon serves no disks over NBD")
                .hint("give it nbd.unix or nbd.tcp in its configuration")
        })
    }

    /// Tells the daemon that we are still there, if it is time to.
    pub(super) fn renew_in_time(&mut self) -> Result<(), Failure> {
        let now = self.clock.monotonic();
        if now.saturating_sub(self.renewed) < RENEW_AFTER {
            return Ok(());
        }
        let lease = LEASE.as_secs().to_string();
        let parameters = [("DiskId", self.id.as_str()), ("LeaseSeconds", lease.as_str())];
        self.client.call(OWN, "RenewDiskLease", &parameters)?;
        self.renewed = now;
        Ok(())
    }

    /// The daemon has made something else of it.
    pub(super) fn given_away(mut self) {
        self.is_mine = false;
    }
}

impl Drop for LeasedDisk<'_> {
    fn drop(&mut self) {
        if self.is_mine {
            // What fails here, the daemon does when the lease ends.
            let _ = self.client.call(ECS, "DetachDisk", &[("DiskId", &self.id)]);
            let _ = self.client.call(ECS, "DeleteDisk", &[("DiskId", &self.id)]);
        }
    }
}
