//! The library's client for a bucket, from options and the environment.

use block::sync::Arc;
use object_store::aws::{AmazonS3Builder, S3CopyIfNotExists};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::http::Connector;
use crate::stores::options::{ALLOW_HTTP, CA_FILE, ENDPOINT, LIMIT, own};
use crate::stores::{Bucket, Cloud, StoreOptions};
use crate::{Error, Result};

/// A file of certificates larger than this is none.
const MAX_CA_LEN: u64 = 1 << 20;

/// Retrying is ours: the library does not tell a put it repeated from one that met a stranger.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

pub(super) fn client(bucket: &Bucket, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>> {
    options.check_names(bucket.cloud)?;
    let allow_http = options.switch(ALLOW_HTTP)?;
    let ca = options.get(CA_FILE).map(read_ca).transpose()?;
    if options.get(ENDPOINT).is_some_and(|url| !allow_http && !url.starts_with("https://")) {
        return Err(wrong(bucket, "endpoint has no TLS: allow-http = true lets it"));
    }
    let connector =
        Connector::new(options.number(LIMIT)?, ca.as_deref()).map_err(|error| wrong(bucket, error))?;
    let built: object_store::Result<Arc<dyn ObjectStore>> = match bucket.cloud {
        Cloud::S3 => s3(bucket, options, allow_http, connector),
        Cloud::Azure => azure(bucket, options, allow_http, connector),
        Cloud::Gcs => gcs(bucket, options, allow_http, connector),
    };
    built.map_err(|error| wrong(bucket, error))
}

fn wrong(bucket: &Bucket, error: impl std::fmt::Display) -> Error {
    Error::invalid(format!("store {bucket}"), format!("its options make no client: {error}"))
}

fn read_ca(path: &str) -> Result<Vec<u8>> {
    use block::{ByteCount, ByteOffset};
    let failed = |error| Error::store("read the certificates in", path)(error);
    let file = block::linux::open_named(std::path::Path::new(path)).map_err(failed)?;
    let size = ByteCount::new(file.size().map_err(failed)?);
    if size.get() > MAX_CA_LEN {
        return Err(Error::invalid(format!("certificates in {path}"), format!("{size} bytes are too many")));
    }
    let mut bytes = vec![0; size.get() as usize];
    file.read_at(ByteOffset::ZERO.get(), &mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The cloud's own options that were given, by the library's names.
fn given<K: std::str::FromStr>(cloud: Cloud, options: &StoreOptions) -> impl Iterator<Item = (K, &str)> {
    own(cloud).iter().filter_map(|(name, theirs)| Some((theirs.parse().ok()?, options.get(name)?)))
}

fn s3(
    bucket: &Bucket,
    options: &StoreOptions,
    allow_http: bool,
    connector: Connector,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&bucket.name)
        .with_retry(no_retries())
        .with_client_options(ClientOptions::new().with_allow_http(allow_http))
        // many servers lack the request that deletes several objects, and we delete one at a time
        .with_disable_bulk_delete(true)
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
        .with_http_connector(connector);
    if let Some(endpoint) = options.get(ENDPOINT) {
        builder = builder.with_endpoint(endpoint);
    }
    for (key, value) in given(bucket.cloud, options) {
        builder = builder.with_config(key, value);
    }
    Ok(Arc::new(builder.build()?))
}

fn azure(
    bucket: &Bucket,
    options: &StoreOptions,
    allow_http: bool,
    connector: Connector,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(&bucket.name)
        .with_retry(no_retries())
        .with_client_options(ClientOptions::new().with_allow_http(allow_http))
        .with_http_connector(connector);
    if let Some(endpoint) = options.get(ENDPOINT) {
        builder = builder.with_endpoint(endpoint.to_owned());
    }
    for (key, value) in given(bucket.cloud, options) {
        builder = builder.with_config(key, value);
    }
    Ok(Arc::new(builder.build()?))
}

fn gcs(
    bucket: &Bucket,
    options: &StoreOptions,
    allow_http: bool,
    connector: Connector,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&bucket.name)
        .with_retry(no_retries())
        .with_client_options(ClientOptions::new().with_allow_http(allow_http))
        .with_http_connector(connector);
    if let Some(endpoint) = options.get(ENDPOINT) {
        builder = builder.with_base_url(endpoint);
    }
    for (key, value) in given(bucket.cloud, options) {
        builder = builder.with_config(key, value);
    }
    Ok(Arc::new(builder.build()?))
}
