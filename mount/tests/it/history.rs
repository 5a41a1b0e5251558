//! Versions of files are found from changed blocks: points whose change map says enough are not even opened.

use crate::mounted::Scene;
use block::{ByteRange, RangeSet};
use mount::history::History;
use mount::{Point, Points, Result};
use std::path::Path;
use std::sync::Arc;

/// Ten points of which some cannot be opened, and one map for all.
struct Known {
    uris: Vec<String>,
    map: Option<RangeSet>,
}

impl Points for Known {
    fn list(&self) -> Result<Vec<Point>> {
        let point = |(index, uri): (usize, &String)| Point {
            name: format!("web@{}", index + 1),
            disk: "web".to_owned(),
            epoch: index as u64 + 1,
            time: format!("t{index}"),
            uri: uri.clone(),
        };
        Ok(self.uris.iter().enumerate().map(point).collect())
    }

    fn changes(&self, _older: &Point, _newer: &Point) -> Result<Option<RangeSet>> {
        Ok(self.map.clone())
    }
}

/// How many versions there are, by this map, if only the newest point can be opened.
fn versions(map: Option<RangeSet>, path: &str) -> Result<Vec<(String, String)>> {
    let scene = Scene::whole("-t ext4 -b 4096");
    let server = scene.server();
    let mut uris = vec!["nbd+unix:///x?socket=/nowhere/at/all".to_owned(); 9];
    uris.push(server.uri());
    let history = History::new(
        Arc::new(Known { uris, map }),
        Some(Path::new(crate::mounted::OWN)),
        mount::Passphrases::default(),
    );
    let found = history.versions("web", 0, path.as_bytes())?;
    Ok(found.into_iter().map(|version| (version.newest.name, version.oldest.name)).collect())
}

#[test]
fn a_point_is_not_opened_if_nothing_a_file_depends_on_changed() {
    let all = || vec![("web@10".to_owned(), "web@1".to_owned())];
    assert_eq!(versions(Some(RangeSet::new()), "/file").unwrap(), all());
    // that MiB of the disk holds nothing of it, nor anything that tells what the disk is
    let far = RangeSet::from_iter([ByteRange::between(12 << 20, 13 << 20)]);
    assert_eq!(versions(Some(far), "/file").unwrap(), all());
    // whatever it was, every older point has to be looked at, and here that fails by name
    let start = RangeSet::from_iter([ByteRange::between(0, 4096)]);
    for map in [Some(start), None] {
        let error = versions(map, "/file").unwrap_err().to_string();
        assert!(error.contains("web@9") && error.contains("/nowhere/at/all"), "{error}");
    }
}
