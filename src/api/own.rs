//! What the cloud does not have, under a version of our own so that no published name is bent.

use serde_json::{Value, json};

use super::answer::Answer;
use super::dispatch::{Handler, authorise};
use super::error::ApiError;
use super::rpc::Parameters;
use super::{Api, OWN_SERVICE, OWN_VERSION, ecs, hsm, keeping, own_layers, status};
use crate::catalog::{CacheMode, DiskLimits};
use crate::disk::check::Finding;
use crate::disk::key_scope::KeyScope;
use crate::disk::rewrap::RewrapReport;
use crate::disk::{CreateDisk, PerformanceChange, Source};
use crate::ram::Caller;
use crate::trail::{Event, ResourceType, Service};

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "CreateLocalDisk" => create_local_disk,
        "DescribeDiskLayers" => describe_disk_layers,
        "DescribeEndpoints" => describe_endpoints,
        "DescribeServer" => describe_server,
        "ExportDiskKey" => export_disk_key,
        "DescribeAccount" => keeping::describe_account,
        "SetAccountStatus" => keeping::set_account_status,
        "DescribeRootKey" => keeping::describe_root_key,
        "RotateRootKey" => keeping::rotate_root_key,
        "CreateBackup" => keeping::create_backup,
        "ModifyDiskPerformance" => modify_disk_performance,
        "RewrapDisk" => rewrap_disk,
        "RewrapKey" => rewrap_key,
        "CheckLayers" => check_layers,
        _ => return own_layers::handler(action).or_else(|| hsm::handler(action)),
    })
}

/// CreateDisk with a size in bytes (whole data units), a read-only switch, cache mode and limits, a
/// lease, and images as sources; encrypted unless told otherwise.
fn create_local_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let source = own_layers::source(parameters)?;
    if source == Source::Nothing {
        parameters.required("SizeBytes")?;
    }
    let size = own_layers::size(parameters)?;
    let encrypted = match source {
        Source::Nothing => parameters.boolean("Encrypted")?.unwrap_or(true),
        _ => ecs::is_encrypted(api, parameters, &source)?,
    };
    let read_only = parameters.boolean("ReadOnly")?.unwrap_or(false);
    let lease = own_layers::lease(parameters)?.flatten();
    let common = ecs::new_disk(parameters, (size, source), encrypted)?;
    let change = performance(parameters)?;
    let limits = DiskLimits {
        iops: change.iops.flatten(),
        bytes_per_second: change.bytes_per_second.flatten(),
    };
    let cache = change.cache.unwrap_or_default();
    let request = CreateDisk { read_only, cache, limits, lease, ..common };
    let disk = api.disks.create(caller, &request)?;
    Ok(Answer::new().with("DiskId", disk.disk_id))
}

/// Cache mode and limits of a disk; what is not there stays as it is. The limits count at once, the
/// cache mode from the next attach on.
fn modify_disk_performance(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let disk_id = parameters.required("DiskId")?;
    let resource = format!("disk/{disk_id}");
    authorise(api, caller, (OWN_SERVICE, "ModifyDiskPerformance"), &resource)?;
    let change = performance(parameters)?;
    let disk = api.disks.modify_performance(caller, disk_id, change)?;
    Ok(Answer::new()
        .with("DiskId", disk.disk_id)
        .with("Cache", disk.cache.as_str())
        .with("IopsLimit", json!(disk.limits.iops))
        .with("BytesPerSecondLimit", json!(disk.limits.bytes_per_second)))
}

/// `Cache`, `IopsLimit` and `BytesPerSecondLimit`; a limit of 0 is none.
fn performance(parameters: &Parameters) -> Result<PerformanceChange, ApiError> {
    let cache = match parameters.filled("Cache") {
        None => None,
        Some(text) => Some(
            CacheMode::parse(text)
                .ok_or_else(|| ApiError::invalid("Cache").recommending("writeback or none"))?,
        ),
    };
    let limit = |name| -> Result<Option<Option<u64>>, ApiError> {
        Ok(parameters.integer(name, 0..=u64::MAX)?.map(|limit| Some(limit).filter(|l| *l > 0)))
    };
    let (iops, bytes_per_second) = (limit("IopsLimit")?, limit("BytesPerSecondLimit")?);
    Ok(PerformanceChange { cache, iops, bytes_per_second })
}

/// The files of a disk, bottom first, for `layer inspect` and backups.
fn describe_disk_layers(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let disk_id = parameters.required("DiskId")?;
    let resource = format!("disk/{disk_id}");
    authorise(api, caller, (OWN_SERVICE, "DescribeDiskLayers"), &resource)?;
    let event = Event::new(Service::Ecs, "DescribeDiskLayers", api.kms.account().actor(caller));
    let event = event.read_only().resource(ResourceType::Disk, disk_id);
    api.trail.record(&event.request("DiskId", disk_id))?;
    let files = api.disks.layer_files(disk_id)?;
    let files: Vec<Value> = files.iter().map(|file| json!(file.to_string_lossy())).collect();
    let scopes = api.disks.key_scopes(disk_id)?;
    let layers: Vec<Value> = scopes.iter().map(layer_shown).collect();
    Ok(Answer::new().with("DiskId", disk_id).with("LayerFiles", files).with("Layers", layers))
}

fn layer_shown(scope: &KeyScope) -> Value {
    let layer = &scope.layer;
    json!({
        "LayerId": layer.layer_id,
        "ParentLayerId": layer.parent,
        "LayerFile": layer.file_name,
        "MadeFor": layer.owner,
        "SizeBytes": layer.size.get(),
        "KMSKeyId": layer.kms_key_id,
        "KeyBytes": scope.encrypted.get(),
        "RekeyAdvised": scope.is_warning,
        "CreationTime": layer.created.to_string(),
    })
}

fn describe_endpoints(api: &Api, caller: &Caller, _: &Parameters) -> Answered {
    authorise(api, caller, (OWN_SERVICE, "DescribeEndpoints"), "server")?;
    let endpoints = &api.endpoints;
    let nbd_unix = endpoints.nbd_unix.as_ref().map(|path| path.to_string_lossy());
    Ok(Answer::new()
        .with("DataDir", endpoints.data_dir.to_string_lossy())
        .with("NbdUnix", json!(nbd_unix))
        .with("NbdTcp", json!(endpoints.nbd_tcp.map(|address| address.to_string())))
        .with("ApiUnix", endpoints.api_unix.to_string_lossy())
        .with("Http", json!(endpoints.http.map(|address| address.to_string()))))
}

fn describe_server(api: &Api, caller: &Caller, _: &Parameters) -> Answered {
    authorise(api, caller, (OWN_SERVICE, "DescribeServer"), "server")?;
    Ok(Answer::new()
        .with("Server", status::health(api))
        .with("ApiVersion", OWN_VERSION)
        .with("RemoteKms", api.remote_kms.clone())
        .with("AccountId", api.account_id.clone())
        .with("RegionId", api.region.clone()))
}

/// The catalog against the layers; `Repair` mends what can be mended without loss.
fn check_layers(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let repair = parameters.boolean("Repair")?.unwrap_or(false);
    let report = api.disks.check(caller, repair)?;
    Ok(Answer::new()
        .with("Layers", report.layers)
        .with("Files", report.files)
        .with("Disks", report.disks)
        .with("Faults", report.faults())
        .with("Findings", report.findings.iter().map(finding_shown).collect::<Vec<_>>()))
}

/// A finding of a check as it is shown.
pub fn finding_shown(finding: &Finding) -> Value {
    let problem = &finding.problem;
    json!({
        "Subject": finding.subject,
        "Problem": problem.code(),
        "Message": problem.to_string(),
        "Note": problem.is_note(),
        "Repairable": problem.is_repairable(),
        "Repaired": finding.is_repaired,
    })
}

/// Data keys of a disk under the newest version of their KMS key.
fn rewrap_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    Ok(rewrapped(&api.disks.rewrap_disk(caller, parameters.required("DiskId")?)?))
}

/// All data keys under a KMS key, under its newest version.
fn rewrap_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    Ok(rewrapped(&api.disks.rewrap_key(caller, parameters.required("KeyId")?)?))
}

fn rewrapped(report: &RewrapReport) -> Answer {
    let failed = report.failed.iter().map(|(layer, error)| {
        json!({"LayerId": layer, "Code": error.code(), "Message": error.message()})
    });
    Answer::new()
        .with("Rewrapped", report.rewrapped)
        .with("Newest", report.newest)
        .with("Unencrypted", report.plain)
        .with("Failed", failed.collect::<Vec<_>>())
}

/// Break-glass: the data key of a disk's top layer, for stock cryptsetup. `Disks` audits it.
fn export_disk_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let exported = api.disks.export_key(caller, parameters.required("DiskId")?)?;
    Ok(Answer::new()
        .with("LayerId", exported.layer_id)
        .with("LayerFile", exported.layer_file.to_string_lossy())
        .with_secret("DataKey", exported.key))
}
