//! One sealed layer: what is in it, and whether its blocks are what their sums say.

use crate::chain::Layer;
use crate::directory::{Directory, Finding, unread};
use crate::map::{Map, State};
use crate::sums;
use block::{Media, MediaFile};

/// What is in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerReport {
    /// Id of the disk.
    pub disk: [u8; 16],
    /// Number of the layer.
    pub number: u64,
    /// Whether it is the active one: then what is committed is shown.
    pub is_active: bool,
    /// The last epoch in it; none for the active layer.
    pub top_epoch: Option<u64>,
    /// Blocks of the disk.
    pub blocks: u64,
    /// The blocks it has.
    pub map: Map,
    /// Whether its sums are whole.
    pub sums_whole: bool,
    /// Blocks held against their sums.
    pub blocks_verified: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Looks at the layer of this number in a disk's directory. With `deep`, every block is held against its sum.
///
/// # Errors
/// What keeps it from being looked at: the chain, or that the chain does not name it.
pub fn inspect_layer(media: &dyn Media, dir: &str, number: u64, deep: bool) -> Result<LayerReport, Finding> {
    let directory = Directory::open(media, dir)?;
    let chain = &directory.chain;
    let disk = chain.disk;
    if number == chain.active {
        let (map, blocks) = (directory.active()?, chain.blocks());
        let (top_epoch, sums_whole, findings) = (None, false, Vec::new());
        let (is_active, blocks_verified) = (true, 0);
        return Ok(LayerReport {
            disk,
            number,
            is_active,
            top_epoch,
            blocks,
            map,
            sums_whole,
            blocks_verified,
            findings,
        });
    }
    let layer = chain.layers.iter().find(|layer| layer.number == number).ok_or_else(|| Finding {
        file: directory.path(number, "layer"),
        why: "is not named by the chain beside it: it is a leftover".to_owned(),
    })?;
    let (map, blocks) = (directory.layer_map(layer)?, layer.blocks);
    let summed = check_sums(&directory, layer, &directory.read_from(layer)?, deep);
    Ok(LayerReport {
        disk,
        number,
        is_active: false,
        top_epoch: Some(layer.top),
        blocks,
        map,
        sums_whole: layer.sums_whole,
        blocks_verified: summed.verified,
        findings: summed.findings,
    })
}

/// What the sums of a layer say.
#[derive(Default)]
pub(crate) struct Summed {
    pub(crate) verified: u64,
    pub(crate) without: u64,
    pub(crate) findings: Vec<Finding>,
}

/// Checks that whole sums are all there and, if `deep`, every block that has one against it.
pub(crate) fn check_sums(directory: &Directory<'_>, layer: &Layer, map: &Map, deep: bool) -> Summed {
    let mut summed = Summed::default();
    if layer.sums == 0 {
        summed.without = map.count(State::Data) + map.count(State::Hydrated);
        return summed;
    }
    if let Err(finding) = sum_pages(directory, layer, map, deep, &mut summed) {
        summed.findings.push(finding);
    }
    summed
}

fn sum_pages(
    directory: &Directory<'_>,
    layer: &Layer,
    map: &Map,
    deep: bool,
    summed: &mut Summed,
) -> Result<(), Finding> {
    let file = directory.open_file(layer.sums, "sums")?;
    let wrong = |why: String| Finding { file: directory.path(layer.sums, "sums"), why };
    let (length, expected) =
        (file.size().map_err(|error| wrong(unread(&error)))?, sums::length(layer.file_blocks));
    if length != expected {
        return Err(wrong(format!("is {length} bytes long, should be {expected}")));
    }
    sums::head(&read(&*file, 0, 60).map_err(wrong)?, directory.chain.disk, layer.sums).map_err(wrong)?;
    let mut page: Option<(u64, Vec<u32>)> = None;
    for run in map.runs.iter().filter(|run| run.state.has_bytes()) {
        for block in run.first..run.past {
            let at = block / sums::PAGE;
            let sums = match &page {
                Some((open, sums)) if *open == at => sums,
                _ => {
                    let slots = read(&*file, 4096 + at * 8192, 8192).map_err(wrong)?;
                    &page.insert((at, sums::page(&slots, directory.chain.disk, layer.sums, at))).1
                }
            };
            let sum = sums[(block % sums::PAGE) as usize];
            match sum {
                0 if layer.sums_whole => {
                    summed.findings.push(wrong(format!("is called whole and has no sum for block {block}")));
                }
                0 => summed.without += 1,
                _ if !deep => {}
                sum if sum == sums::of(&directory.block(layer.number, block)?) => summed.verified += 1,
                _ => summed.findings.push(Finding {
                    file: directory.path(layer.number, "layer"),
                    why: format!("is damaged at block {block}: its checksum disagrees"),
                }),
            }
        }
    }
    Ok(())
}

fn read(file: &dyn MediaFile, at: u64, count: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; count];
    file.read_at(at, &mut bytes).map_err(|error| unread(&error))?;
    Ok(bytes)
}
