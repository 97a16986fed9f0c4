//! What the cloud does not have, under a version of our own so that no published name is bent.

use serde_json::{Value, json};

use super::answer::Answer;
use super::dispatch::{Handler, authorise};
use super::error::ApiError;
use super::rpc::Parameters;
use super::{Api, OWN_SERVICE, OWN_VERSION, ecs, hsm, keeping, status};
use crate::catalog::{CacheMode, DiskLimits};
use crate::disk::{CreateDisk, PerformanceChange};
use crate::limits;
use crate::ram::Caller;
use crate::trail::{Event, ResourceType, Service};
use crate::units::{ByteCount, DataUnitSize};

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
        _ => return hsm::handler(action),
    })
}

/// CreateDisk with a size in bytes (whole data units), a read-only switch, cache mode and limits;
/// encrypted unless told otherwise.
fn create_local_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    const SIZE: &str = "SizeBytes";
    parameters.required(SIZE)?;
    let allowed = DataUnitSize::B4096.bytes()..=limits::DISK_BYTES_MAX;
    let size: Option<u64> = parameters.integer(SIZE, allowed)?;
    let size = size.filter(|size| size.is_multiple_of(DataUnitSize::B4096.bytes()));
    let size = size.ok_or_else(|| ApiError::invalid(SIZE).recommending("a multiple of 4096"))?;
    let encrypted = parameters.boolean("Encrypted")?.unwrap_or(true);
    let read_only = parameters.boolean("ReadOnly")?.unwrap_or(false);
    let common = ecs::new_disk(parameters, ByteCount::new(size), encrypted)?;
    let change = performance(parameters)?;
    let limits = DiskLimits {
        iops: change.iops.flatten(),
        bytes_per_second: change.bytes_per_second.flatten(),
    };
    let cache = change.cache.unwrap_or_default();
    let disk = api.disks.create(caller, &CreateDisk { read_only, cache, limits, ..common })?;
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
    Ok(Answer::new().with("DiskId", disk_id).with("LayerFiles", files))
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

/// Break-glass: the data key of a disk's top layer, for stock cryptsetup. `Disks` audits it.
fn export_disk_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let exported = api.disks.export_key(caller, parameters.required("DiskId")?)?;
    Ok(Answer::new()
        .with("LayerId", exported.layer_id)
        .with("LayerFile", exported.layer_file.to_string_lossy())
        .with_secret("DataKey", exported.key))
}
