//! Unpacks the region data from the file in the binary.
//!
//! What always holds: the file is part of the program and unpacked by a test. Damage would be an error of the build,
//! and panics on first use; nothing else here panics.

use std::{io::Read, ops::Range, sync::OnceLock};

use bytes::Bytes;

use super::{Node, Regions, Village};

static FILE: &[u8] = include_bytes!("../../data/regions.gz");

/// Approximate length of the unpacked text, to avoid reallocation.
const TEXT: usize = 1 << 21;

#[allow(clippy::expect_used)]
pub(super) fn unpack() -> Regions {
    let mut text = String::with_capacity(TEXT);
    flate2::read::GzDecoder::new(FILE).read_to_string(&mut text).expect("sandbox/data/regions.gz is whole");
    read(&text).expect("sandbox/data/regions.gz is in its format")
}

/// Parses the format described in `data/make-regions.py`.
fn read(text: &str) -> Option<Regions> {
    let mut map = Regions {
        names: String::with_capacity(text.len()),
        provinces: Vec::with_capacity(64),
        cities: Vec::with_capacity(1 << 10),
        districts: Vec::with_capacity(1 << 13),
        villages: Vec::with_capacity(1 << 17),
        posts: Vec::new(),
        province_list: Bytes::new(),
    };
    let (mut province, mut city, mut district, mut number, mut post) = (0, 0, 0, 0, 0);
    for line in text.lines() {
        let (tag, name) = line.split_once(' ')?;
        let name = push(&mut map.names, name);
        match tag.as_bytes() {
            [b'=', ..] => {
                province = tag[1..].parse::<u32>().ok()?;
                map.provinces.push(node(province, name, map.cities.len()));
            }
            [b'+', ..] => {
                city = province * 100 + tag[1..].parse::<u32>().ok()?;
                map.cities.push(node(city, name, map.districts.len()));
                map.provinces.last_mut()?.children.end += 1;
            }
            [b'-', ..] => {
                district = city * 100 + tag[1..].parse::<u32>().ok()?;
                map.districts.push(node(district * 10, name, map.villages.len()));
                map.cities.last_mut()?.children.end += 1;
            }
            _ => {
                (number, post) = village_tag(tag, number + 1, post)?;
                let id = u64::from(district) * 10_000 + u64::from(number);
                let parent = map.districts.len().checked_sub(1)? as u32;
                map.villages.push(Village { id, post, district: parent, name });
                map.districts.last_mut()?.children.end += 1;
            }
        }
    }
    let mut posts: Vec<u32> = (0..map.villages.len() as u32).collect();
    posts.sort_by_key(|position| map.villages[*position as usize].post);
    map.posts = posts;
    map.province_list = province_list(&map);
    Some(map)
}

/// Parses `#2001@23773`: number and postal code, both optional.
fn village_tag(tag: &str, next: u32, post: u32) -> Option<(u32, u32)> {
    let (number, code) = tag.split_once('@').unwrap_or((tag, ""));
    let number = match number.strip_prefix('#') {
        Some(digits) => digits.parse().ok()?,
        None => next,
    };
    let post = if code.is_empty() { post } else { code.parse().ok()? };
    Some((number, post))
}

fn node(id: u32, name: Range<u32>, children: usize) -> Node {
    let start = children as u32;
    Node { id, name, children: start..start, list: OnceLock::new() }
}

fn push(names: &mut String, name: &str) -> Range<u32> {
    let start = names.len() as u32;
    names.push_str(name);
    // A separator that no search text contains, so that no match spans two names.
    names.push('\n');
    start..start + name.len() as u32
}

fn province_list(map: &Regions) -> Bytes {
    let mut out = b"[".to_vec();
    for node in &map.provinces {
        let name = map.name(&node.name);
        out.extend_from_slice(format!(r#"{{"province_id":{},"name":"{name}"}},"#, node.id).as_bytes());
    }
    super::closed(out).into()
}
