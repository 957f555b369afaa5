//! The data are complete, ids follow the stated rule, and search finds every region.

use std::collections::HashSet;

use super::*;

fn text(json: impl AsRef<[u8]>) -> String {
    String::from_utf8(json.as_ref().to_vec()).unwrap()
}

#[test]
fn the_map_is_the_decrees() {
    assert_eq!(Regions::get().counts(), [38, 514, 7_285, 83_762]);
}

#[test]
fn no_two_regions_share_an_id_and_lengths_are_the_apis() {
    let map = Regions::get();
    let mut seen = HashSet::new();
    let levels = [(&map.provinces, 2), (&map.cities, 4), (&map.districts, 7)];
    for (level, digits) in levels {
        for node in level {
            assert_eq!(node.id.to_string().len(), digits);
            assert!(seen.insert(u64::from(node.id)));
        }
    }
    for village in &map.villages {
        assert_eq!(village.id.to_string().len(), 10);
        assert!(seen.insert(village.id), "{} twice", village.id);
    }
    assert_eq!(seen.len(), 38 + 514 + 7_285 + 83_762);
}

#[test]
fn ids_follow_the_stated_rule() {
    let rule = [("31", 31), ("31.71", 3171), ("31.71.03", 3_171_030), ("31.71.03.1001", 3_171_031_001)];
    for (code, id) in rule {
        assert_eq!(id_of(code), Some(id));
    }
    for code in ["", "3", "31.7", "31.71.0", "x1", "31.71.03.100"] {
        assert_eq!(id_of(code), None, "{code}");
    }
    let map = Regions::get();
    assert!(text(map.provinces()).contains(r#"{"province_id":11,"name":"ACEH"}"#));
    assert!(
        text(map.cities(11).unwrap()).contains(r#"{"city_id":1101,"name":"KABUPATEN ACEH SELATAN","province_id":11}"#)
    );
    assert!(
        text(map.districts(3171).unwrap()).contains(r#"{"district_id":3171030,"name":"KEMAYORAN","city_id":3171}"#)
    );
    assert!(
        text(map.villages(3_171_030).unwrap())
            .contains(r#"{"subdistrict_id":3171031001,"name":"KEMAYORAN","district_id":3171030}"#)
    );
}

#[test]
fn every_parent_and_child_agree() {
    let map = Regions::get();
    for village in &map.villages {
        let (district, city, province) = map.parents(village);
        let place = map.place(village.id).unwrap();
        assert_eq!(place.district, u64::from(district.id));
        assert_eq!(place.city, u64::from(city.id));
        assert_eq!(place.province, u64::from(province.id));
    }
}

#[test]
fn every_list_is_json() {
    let map = Regions::get();
    let mut villages = 0;
    for province in &map.provinces {
        for city in &map.cities[usizes(&province.children)] {
            let _: serde_json::Value = serde_json::from_slice(&map.districts(city.id.into()).unwrap()).unwrap();
            for district in &map.districts[usizes(&city.children)] {
                let list: Vec<serde_json::Value> =
                    serde_json::from_slice(&map.villages(district.id.into()).unwrap()).unwrap();
                villages += list.len();
            }
        }
    }
    assert_eq!(villages, 83_762);
}

#[test]
fn what_is_not_on_the_map_is_none() {
    let map = Regions::get();
    assert!(map.cities(99).is_none() && map.districts(9_999).is_none() && map.villages(9_999_990).is_none());
    assert!(map.by_post(0).is_none() && map.place(u64::MAX).is_none() && map.cities(u64::MAX).is_none());
}

#[test]
fn a_postal_code_that_spans_districts_gives_all_of_them() {
    let list: Vec<serde_json::Value> = serde_json::from_slice(&Regions::get().by_post(10620).unwrap()).unwrap();
    assert!(list.iter().any(|v| v["subdistrict_id"] == 3_171_031_001_u64 && v["city_id"] == 3171), "{list:?}");
    assert!(list.iter().all(|v| v["post_code"] == "10620"));
}

#[test]
fn a_full_name_finds_itself() {
    let (map, mut search) = (Regions::get(), Search::default());
    for position in (0..map.villages.len()).step_by(4_999) {
        let name = map.full_name(position);
        let page = text(search.page(&name.to_lowercase(), 0, 1_000));
        assert!(page.contains(&map.villages[position].id.to_string()), "{name}");
    }
}

#[test]
fn search_sees_parents_and_postal_codes_and_pages() {
    let mut search = Search::default();
    let all: Vec<serde_json::Value> = serde_json::from_slice(&search.page("kemayoran 106", 0, 100)).unwrap();
    assert!(all.len() > 3);
    for element in &all {
        let name = element["name"].as_str().unwrap();
        assert!(name.contains("KEMAYORAN") && name.contains("106"), "{name}");
    }
    let two: Vec<serde_json::Value> = serde_json::from_slice(&search.page("Kemayoran, 106", 1, 2)).unwrap();
    assert_eq!(two, all[1..3]);
    assert_eq!(text(search.page("nosuchplace", 0, 10)), "[]");
    assert_eq!(text(search.page("", 0, 10)), "[]");
    assert_eq!(text(search.page("\u{0}\n\"\\", 0, 10)), "[]");
}

#[test]
fn common_village_names_are_told_apart_by_their_parents() {
    let mut search = Search::default();
    let all: Vec<serde_json::Value> = serde_json::from_slice(&search.page("SIDOMULYO", 0, 1_000)).unwrap();
    let names: HashSet<&str> = all.iter().filter_map(|v| v["name"].as_str()).collect();
    assert!(all.len() >= 98);
    assert_eq!(names.len(), all.len());
}

/// An id by the rule of this module, from the ministry's dotted code.
fn id_of(code: &str) -> Option<u64> {
    let digits: String = code.split('.').collect();
    let number: u64 = digits.parse().ok()?;
    match digits.len() {
        2 | 4 | 10 => Some(number),
        6 => Some(number * 10),
        _ => None,
    }
}
