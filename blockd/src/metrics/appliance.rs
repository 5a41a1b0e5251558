//! What Prometheus collects of the appliance as a whole.

use super::Text;
use crate::daemon::Daemon;
use crate::error::Result;
use jiff::Timestamp;

/// The families about items, vaults and jobs.
///
/// # Errors
/// Why items or the catalog cannot be read.
pub fn appliance(daemon: &Daemon) -> Result<String> {
    let mut text = Text(String::new());
    items(daemon, &mut text)?;
    tiers(daemon, &mut text)?;
    jobs(daemon, &mut text);
    let frozen = f64::from(u8::from(daemon.appliance_clock().freezes().is_some()));
    text.one(
        "blockd_deletion_frozen",
        "gauge",
        "Whether nothing is deleted, because the clock jumped.",
        frozen,
    );
    Ok(text.0)
}

fn items(daemon: &Daemon, text: &mut Text) -> Result<()> {
    let now = daemon.now();
    let items = daemon.items()?;
    let name = "blockd_item_newest_point_age_seconds";
    text.family(
        name,
        "gauge",
        "Age of the newest good point of a protected item that its vault holds; absent without one.",
    );
    for item in &items {
        let made = item.newest.as_ref().and_then(|time| time.parse::<Timestamp>().ok());
        if let Some(made) = made {
            text.labelled(name, &[("item", &item.item)], now.duration_since(made).as_secs_f64());
        }
    }
    let name = "blockd_item_late";
    text.family(name, "gauge", "Whether that is older than the item's policy allows.");
    for item in &items {
        text.labelled(name, &[("item", &item.item)], f64::from(u8::from(item.is_late)));
    }
    Ok(())
}

fn tiers(daemon: &Daemon, text: &mut Text) -> Result<()> {
    let disks = daemon.disks();
    let vaults = daemon.vaults()?;
    let name = "blockd_tier_bytes";
    text.family(name, "gauge", "Bytes that a tier takes.");
    let instant: u64 = disks.iter().filter_map(|disk| disk.stored).sum();
    text.labelled(name, &[("tier", "instant"), ("vault", "")], instant as f64);
    for vault in &vaults {
        if let Some(stored) = vault.stored {
            text.labelled(name, &[("tier", "vault"), ("vault", &vault.name)], stored as f64);
        }
    }
    let name = "blockd_vault_points";
    text.family(name, "gauge", "Recovery points in a vault.");
    for vault in &vaults {
        if let Some(points) = vault.points {
            text.labelled(name, &[("vault", &vault.name)], points as f64);
        }
    }
    let name = "blockd_vault_dedup_ratio";
    text.family(name, "gauge", "Bytes of all disks at all points of a vault, by the bytes the vault takes.");
    for vault in &vaults {
        let points = daemon.tiers().vaults.get(&vault.name).and_then(|named| {
            use crate::error::Doing;
            named.vault()?.points().doing(|| format!("vault {}", vault.name))
        });
        // one that cannot be used is in the warnings of the status
        let (Ok(points), Some(stored)) = (points, vault.stored.filter(|&stored| stored > 0)) else {
            continue;
        };
        let whole: u64 = points.iter().map(|point| point.size.get()).sum();
        text.labelled(name, &[("vault", &vault.name)], whole as f64 / stored as f64);
    }
    Ok(())
}

fn jobs(daemon: &Daemon, text: &mut Text) {
    let counts = daemon.jobs().counts();
    text.one("blockd_jobs_active", "gauge", "Jobs that wait or run.", daemon.jobs().active() as f64);
    let help = "How long the job has waited that waits longest; 0 if none does.";
    text.one("blockd_job_queue_age_seconds", "gauge", help, daemon.jobs().queue_age().as_secs_f64());
    let name = "blockd_jobs_total";
    text.family(name, "counter", "Jobs that ended since the daemon started.");
    for ((operation, result), count) in &counts.ended {
        text.labelled(name, &[("operation", operation), ("result", result)], *count as f64);
    }
    let name = "blockd_backup_chunks_total";
    text.family(
        name,
        "counter",
        "Chunks of backups since the daemon started, by whether the vault had them.",
    );
    text.labelled(name, &[("result", "new")], counts.chunks_new as f64);
    text.labelled(name, &[("result", "reused")], counts.chunks_reused as f64);
    let help = "Bytes backups added to vaults since the daemon started.";
    text.one("blockd_backup_stored_bytes_total", "counter", help, counts.bytes_stored as f64);
}
