//! How to reach the servers of the tests.

use sim::server::{ACCOUNT, ACCOUNT_KEY, BUCKET};
use vault::{Bucket, Place, StoreOptions};

pub fn bucket(scheme: &str, prefix: &str) -> Bucket {
    match Place::parse(&format!("{scheme}://{BUCKET}/{prefix}")) {
        Ok(Place::Bucket(bucket)) => bucket,
        other => panic!("{other:?}"),
    }
}

/// How to reach an S3 server on a port of this host.
pub fn s3(port: u16, more: &str) -> StoreOptions {
    let text = format!(
        "endpoint = http://127.0.0.1:{port}\nallow-http = true\nregion = us-east-1\naccess-key-id = test\n\
         secret-access-key = test\n{more}"
    );
    StoreOptions::parse(&text).expect("options")
}

/// How to reach Azurite on a port of this host.
pub fn azure(port: u16) -> StoreOptions {
    let text = format!(
        "endpoint = http://127.0.0.1:{port}/{ACCOUNT}\nallow-http = true\naccount = {ACCOUNT}\naccess-key = {ACCOUNT_KEY}\n"
    );
    StoreOptions::parse(&text).expect("options")
}
