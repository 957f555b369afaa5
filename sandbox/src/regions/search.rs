//! Search by name, parents' names and postal code.
//!
//! A village matches if every word of the search text occurs in its full name (`VILLAGE, DISTRICT, CITY, PROVINCE,
//! 12345`), ignoring case. Words are separated by white space and commas; a number matches the beginning of the
//! postal code. So searching for a full name finds that village. Results are sorted by id.
//!
//! What always holds: the work is bounded (at most eight words, one pass over the names for each), and recent results
//! are cached, so that repeating a search costs a look-up.

use std::{collections::HashMap, sync::Arc};

use memchr::memmem;

use super::{Node, Regions, usizes};

/// Maximum number of words used.
const MAX_WORDS: usize = 8;

/// Maximum number of cached positions (16 MB); beyond it the cache is cleared.
const MAX_CACHED: usize = 4 << 20;

/// Cost of a cached text in addition to its positions.
const TEXT_COST: usize = 64;

/// Maximum length of a search text, in bytes.
const MAX_TEXT: usize = 256;

/// Search with a cache of results.
#[derive(Debug, Default)]
pub(crate) struct Search {
    cache: HashMap<String, Arc<[u32]>>,
    cached: usize,
}

impl Search {
    /// A page of the villages that match `text`, as a JSON array of `id` and `name`. Empty if none match or the text
    /// is longer than 256 bytes.
    pub(crate) fn page(&mut self, text: &str, offset: usize, limit: usize) -> Vec<u8> {
        let map = Regions::get();
        if text.len() > MAX_TEXT {
            return b"[]".to_vec();
        }
        let found = self.found(map, text.to_uppercase());
        let mut out = b"[".to_vec();
        for &position in found.iter().skip(offset).take(limit) {
            let (id, name) = (map.villages[position as usize].id, map.full_name(position as usize));
            out.extend_from_slice(format!(r#"{{"id":{id},"name":"{name}"}},"#).as_bytes());
        }
        super::closed(out)
    }

    fn found(&mut self, map: &Regions, text: String) -> Arc<[u32]> {
        if let Some(found) = self.cache.get(&text) {
            return Arc::clone(found);
        }
        let found: Arc<[u32]> = search(map, &text).into();
        let weight = found.len() + TEXT_COST;
        if self.cached + weight > MAX_CACHED {
            self.cache.clear();
            self.cached = 0;
        }
        self.cached += weight;
        self.cache.insert(text, Arc::clone(&found));
        found
    }
}

/// Positions of the villages that match `text` (upper case), ascending.
fn search(map: &Regions, text: &str) -> Vec<u32> {
    let mut left: Option<Vec<bool>> = None;
    for word in text.split([' ', ',', '\t', '\r', '\n']).filter(|word| !word.is_empty()).take(MAX_WORDS) {
        let hits = hits(map, word);
        left = Some(match left {
            None => hits,
            Some(left) => left.iter().zip(hits).map(|(a, b)| *a && b).collect(),
        });
    }
    let flags = left.unwrap_or_default();
    flags.iter().enumerate().filter(|(_, hit)| **hit).map(|(position, _)| position as u32).collect()
}

/// Which villages have `word` in their full name.
fn hits(map: &Regions, word: &str) -> Vec<bool> {
    let mut hits = vec![false; map.villages.len()];
    for at in memmem::find_iter(map.names.as_bytes(), word.as_bytes()) {
        mark(map, at as u32, &mut hits);
    }
    if let Some((low, high)) = posts(word) {
        for (hit, village) in hits.iter_mut().zip(&map.villages) {
            *hit |= (low..high).contains(&village.post);
        }
    }
    hits
}

/// Marks all villages in the region whose name contains byte `at`; names are stored in the order of the regions.
fn mark(map: &Regions, at: u32, hits: &mut [bool]) {
    let last = |level: &[Node]| level.partition_point(|node| node.name.start <= at).checked_sub(1);
    let village = map.villages.partition_point(|village| village.name.start <= at).checked_sub(1);
    if let Some(village) = village.filter(|v| map.villages[*v].name.contains(&at)) {
        hits[village] = true;
    } else if let Some(node) = last(&map.districts).map(|d| &map.districts[d]).filter(|d| d.name.contains(&at)) {
        hits[usizes(&node.children)].fill(true);
    } else if let Some(node) = last(&map.cities).map(|c| &map.cities[c]).filter(|c| c.name.contains(&at)) {
        fill(map, node, hits);
    } else if let Some(node) = last(&map.provinces).map(|p| &map.provinces[p]).filter(|p| p.name.contains(&at)) {
        for city in &map.cities[usizes(&node.children)] {
            fill(map, city, hits);
        }
    }
}

fn fill(map: &Regions, city: &Node, hits: &mut [bool]) {
    for district in &map.districts[usizes(&city.children)] {
        hits[usizes(&district.children)].fill(true);
    }
}

/// The range of postal codes that begin with `word`, if it is one to five digits.
fn posts(word: &str) -> Option<(u32, u32)> {
    if word.len() > 5 || !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let width = 10_u32.pow(5 - word.len() as u32);
    let low = word.parse::<u32>().ok()? * width;
    Some((low, low + width))
}
