//! Indonesia's provinces, cities, districts and villages, with their postal codes.
//!
//! The data are the interior ministry's (decree 300.2.2-2138 of 2025), made by `data/make-regions.py` and unpacked
//! once in a process, on first use.
//!
//! What always holds: an id is the ministry's code without dots, with one `0` appended to a district's six digits. So
//! ids have 2, 4, 7 and 10 digits like the API's, are unique, and begin with their province's two and city's four
//! digits. Names are upper case and need no escaping in JSON. Fastrac's own ids are not public and certainly differ.

mod search;
mod unpack;

use std::{ops::Range, sync::OnceLock};

use bytes::Bytes;

pub(crate) use search::Search;

static MAP: OnceLock<Regions> = OnceLock::new();

/// All regions.
#[derive(Debug)]
pub(crate) struct Regions {
    names: String,
    provinces: Vec<Node>,
    cities: Vec<Node>,
    districts: Vec<Node>,
    villages: Vec<Village>,
    /// Positions of villages, sorted by postal code.
    posts: Vec<u32>,
    province_list: Bytes,
}

/// A province, city or district. `list` is the JSON list of its children, made on first use.
#[derive(Debug)]
struct Node {
    id: u32,
    name: Range<u32>,
    children: Range<u32>,
    list: OnceLock<Bytes>,
}

/// An element of a list of regions.
struct Row<'a> {
    id_field: &'static str,
    id: u64,
    name: &'a Range<u32>,
    parent_field: &'static str,
    parent: u32,
}

#[derive(Debug)]
struct Village {
    id: u64,
    post: u32,
    district: u32,
    name: Range<u32>,
}

/// Ids of a village and of the regions that contain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// Of the village, ten digits.
    pub id: u64,
    /// Seven digits.
    pub district: u64,
    /// Four digits.
    pub city: u64,
    /// Two digits.
    pub province: u64,
}

impl Regions {
    /// Unpacks the data on the first call in the process.
    pub(crate) fn get() -> &'static Regions {
        MAP.get_or_init(unpack::unpack)
    }

    /// How many provinces, cities, districts and villages there are.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> [usize; 4] {
        [self.provinces.len(), self.cities.len(), self.districts.len(), self.villages.len()]
    }

    /// All provinces, as a JSON array.
    pub(crate) fn provinces(&self) -> Bytes {
        self.province_list.clone()
    }

    /// The cities of a province, as a JSON array; `None` if the province is unknown.
    pub(crate) fn cities(&self, province: u64) -> Option<Bytes> {
        let parent = find(&self.provinces, province)?;
        Some(self.list(&self.cities, parent, ["city_id", "province_id"]))
    }

    /// The districts of a city, as a JSON array; `None` if the city is unknown.
    pub(crate) fn districts(&self, city: u64) -> Option<Bytes> {
        let parent = find(&self.cities, city)?;
        Some(self.list(&self.districts, parent, ["district_id", "city_id"]))
    }

    /// The villages of a district, as a JSON array; `None` if the district is unknown.
    pub(crate) fn villages(&self, district: u64) -> Option<Bytes> {
        let parent = find(&self.districts, district)?;
        let list = parent.list.get_or_init(|| {
            let mut out = b"[".to_vec();
            for village in &self.villages[usizes(&parent.children)] {
                let id = village.id;
                self.append(
                    &mut out,
                    &Row {
                        id_field: "subdistrict_id",
                        id,
                        name: &village.name,
                        parent_field: "district_id",
                        parent: parent.id,
                    },
                );
            }
            closed(out).into()
        });
        Some(list.clone())
    }

    /// The villages of a postal code with their parents, as a JSON array; `None` if there are none.
    pub(crate) fn by_post(&self, post: u32) -> Option<Vec<u8>> {
        let mut out = b"[".to_vec();
        let of = |position: &u32| self.villages[*position as usize].post;
        let first = self.posts.partition_point(|position| of(position) < post);
        for position in self.posts[first..].iter().take_while(|position| of(position) == post) {
            let village = &self.villages[*position as usize];
            let (district, city, province) = self.parents(village);
            out.extend_from_slice(
                format!(
                    r#"{{"post_code":"{post:05}","subdistrict_id":{},"subdistrict":"{}","district_id":{},"district":"{}","city_id":{},"city_name":"{}","province_id":{},"province_name":"{}"}},"#,
                    village.id,
                    self.name(&village.name),
                    district.id,
                    self.name(&district.name),
                    city.id,
                    self.name(&city.name),
                    province.id,
                    self.name(&province.name),
                )
                .as_bytes(),
            );
        }
        (out.len() > 1).then(|| closed(out))
    }

    /// The regions that contain a village; `None` if the village is unknown.
    pub(crate) fn place(&self, village: u64) -> Option<Location> {
        self.villages.binary_search_by_key(&village, |v| v.id).ok()?;
        Some(Location {
            id: village,
            district: village / 10_000 * 10,
            city: village / 1_000_000,
            province: village / 100_000_000,
        })
    }

    /// `VILLAGE, DISTRICT, CITY, PROVINCE, 12345` for the village at `position`.
    fn full_name(&self, position: usize) -> String {
        let village = &self.villages[position];
        let (district, city, province) = self.parents(village);
        let [village_name, district, city, province] =
            [&village.name, &district.name, &city.name, &province.name].map(|name| self.name(name));
        format!("{village_name}, {district}, {city}, {province}, {:05}", village.post)
    }

    fn parents(&self, village: &Village) -> (&Node, &Node, &Node) {
        let district = &self.districts[village.district as usize];
        let city = holder(&self.cities, village.district);
        let province = holder(&self.provinces, position_in(&self.cities, village.district));
        (district, city, province)
    }

    fn list(&self, level: &[Node], parent: &Node, [id_field, parent_field]: [&'static str; 2]) -> Bytes {
        let render = || {
            let mut out = b"[".to_vec();
            for node in &level[usizes(&parent.children)] {
                let id = u64::from(node.id);
                self.append(&mut out, &Row { id_field, id, name: &node.name, parent_field, parent: parent.id });
            }
            closed(out).into()
        };
        parent.list.get_or_init(render).clone()
    }

    /// Appends an element and a comma.
    fn append(&self, out: &mut Vec<u8>, row: &Row<'_>) {
        let Row { id_field, id, parent_field, parent, .. } = row;
        let name = self.name(row.name);
        out.extend_from_slice(
            format!(r#"{{"{id_field}":{id},"name":"{name}","{parent_field}":{parent}}},"#).as_bytes(),
        );
    }

    fn name(&self, range: &Range<u32>) -> &str {
        &self.names[usizes(range)]
    }
}

/// Closes a JSON array in which a comma follows each element.
fn closed(mut out: Vec<u8>) -> Vec<u8> {
    if out.last() == Some(&b',') {
        out.pop();
    }
    out.push(b']');
    out
}

fn find(level: &[Node], id: u64) -> Option<&Node> {
    let id = u32::try_from(id).ok()?;
    level.binary_search_by_key(&id, |node| node.id).ok().map(|position| &level[position])
}

/// Position of the node whose children include `child`; every child has one.
fn position_in(level: &[Node], child: u32) -> u32 {
    level.partition_point(|node| node.children.end <= child) as u32
}

fn holder(level: &[Node], child: u32) -> &Node {
    &level[position_in(level, child) as usize]
}

fn usizes(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

#[cfg(test)]
mod tests;
