//! Which names of members and parameters mask their values.
//!
//! A name is looked at in two ways: as one text without case, `-`, `_` and spaces, in which parts are searched for; and as
//! its words (`no_hp_penerima`, `nomorHp`, `KTPNumber`), Indonesian and English. Other punctuation separates segments, so
//! `shipper[phone]` and `shipper.phone` are `phone` inside `shipper`. In doubt a value is masked: what was written to the
//! log cannot be taken back. Pure; knows nothing of JSON; never fails.

mod words;

use std::collections::HashMap;

use foldhash::fast::RandomState;
use words::{PERSONS, is_personal};

/// What happens to the value of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaskRule {
    Keep,
    /// It is masked as a whole.
    Mask,
    /// A person: in an object the ids of regions are kept, everything else is masked.
    Person,
    /// A place: like a person, but a bare id of a region is kept.
    Place,
    /// The id of a region inside a person or place: kept if it looks like one.
    Region,
}

/// A name that contains one of these is that of a secret.
const SECRET_PARTS: &[&str] = &[
    "secret",
    "passw",
    "passphrase",
    "pwd",
    "token",
    "auth",
    "credential",
    "cookie",
    "session",
    "signature",
    "bearer",
    "apikey",
    "accesskey",
    "privatekey",
    "sandi",
    "cvv",
    "passcode",
    "kodeotp",
    "otpcode",
    "kodeakses",
    "accesscode",
    "kodeverifikasi",
    "verificationcode",
    "securitycode",
    "kodekeamanan",
    "otentikasi",
    "autentikasi",
];

/// Segments that are secret only as a whole.
const SECRET_WHOLE: &[&str] = &["pin", "otp", "pass", "jwt", "sig", "hmac", "basic"];

/// A name that contains one of these is personal, or may lead to a secret.
const PARTS: &[&str] = &[
    "webhook",
    "callback",
    // persons and how to reach them
    "phone",
    "telepon",
    "telpon",
    "telp",
    "notlp",
    "ponsel",
    "nomorhp",
    "nohp",
    "whatsapp",
    "handphone",
    "mobile",
    "email",
    "surel",
    "contact",
    "kontak",
    "birth",
    "lahir",
    "gender",
    "kelamin",
    "rekening",
    "norek",
    "nomorrek",
    "accountnumber",
    "bankaccount",
    "virtualacc",
    "accountno",
    "accountnum",
    "acctno",
    "acctnum",
    "accno",
    "accnum",
    "noakun",
    "nomorakun",
    "idnumber",
    "taxid",
    "taxnumber",
    "npwp",
    "ktp",
    "passport",
    "paspor",
    "identitas",
    "identity",
    "atasnama",
    "tandatangan",
    // where they live
    "addr",
    "alamat",
    "street",
    "jalan",
    "latitud",
    "lattitud",
    "longitud",
    "longtitud",
    "latlong",
    "latlng",
    "latlon",
    "longlat",
    "lnglat",
    "coord",
    "koordinat",
    "pinpoint",
    "pluscode",
    "geo",
    "landmark",
    "patokan",
    // free text
    "keyword",
    "katakunci",
    "search",
    "keterangan",
    "deskripsi",
    "catatan",
    "note",
    "remark",
    "comment",
    "instruction",
    "instruksi",
    "reason",
];

/// Segments that are personal only as a whole, or may lead to a secret.
const WHOLE: &[&str] = &[
    "key", "url", "uri", "lat", "lng", "lon", "long", "hp", "wa", "nowa", "tel", "fax", "nik", "dob", "pic", "q",
    "query", "rt", "rw", "rtrw", "user", "ssn", "card", "idno", "noid", "nomorid", "find",
];

/// Names that end with `name` (or begin with `name`, `nama`) and do not name a person. All other such
/// names are masked, including a plain `name`: it may be that of a region or of a receiver.
const PUBLIC_NAMES: &[&str] = &[
    "couriername",
    "namakurir",
    "servicename",
    "namaservice",
    "provincename",
    "cityname",
    "districtname",
    "subdistrictname",
];

/// Names of persons besides [`PERSONS`].
const ALSO_PERSONS: &[&str] = &["stop", "stops", "person"];

const PLACES: &[&str] = &["origin", "destination", "pickuppoint", "dropoffpoint", "location", "lokasi"];

const REGIONS: &[&str] = &["id", "regionid", "subdistrictid", "districtid", "cityid", "provinceid"];

/// Frequent names in Fastrac's requests and responses: classified once. Other names are classified in
/// the same way when they occur, so this list changes no result. Without it, tariffs take 29.5 µs, the
/// request for them 1.8 µs (`json.rs` says how that was measured).
const COMMON: &[&str] = &[
    "success",
    "message",
    "data",
    "error",
    "id",
    "name",
    "province_id",
    "city_id",
    "district_id",
    "subdistrict_id",
    "region_id",
    "post_code",
    "postal_code",
    "province",
    "city",
    "district",
    "subdistrict",
    "page",
    "limit",
    "origin",
    "destination",
    "courier",
    "courier_code",
    "service",
    "service_code",
    "price",
    "cod",
    "insurance",
    "discount",
    "items",
    "item",
    "package",
    "weight",
    "width",
    "height",
    "length",
    "quantity",
    "qty",
    "value",
    "tariff_id",
    "awb",
    "booking_id",
    "status",
    "date",
    "history",
    "shipper",
    "receiver",
    "phone",
    "address",
];

/// The rules, with the configuration's further names.
#[derive(Debug)]
pub(super) struct MaskRules {
    /// Rules of [`COMMON`].
    common: HashMap<&'static str, MaskRule, RandomState>,
    /// [`SECRET_PARTS`] and [`PARTS`] grouped by first byte. If each is searched for with `contains`, tariffs take 71 µs, the
    /// response to an order 28 µs.
    parts: [Vec<&'static str>; 26],
    /// From the configuration, as [`fold`] returns them.
    further: Vec<String>,
}

impl MaskRules {
    pub(super) fn new(further: &[String]) -> MaskRules {
        let mut parts: [Vec<&'static str>; 26] = Default::default();
        for part in SECRET_PARTS.iter().chain(PARTS) {
            parts[usize::from(part.as_bytes()[0] - b'a')].push(part);
        }
        let further = further.iter().map(|name| fold(name).replace('.', "")).filter(|name| !name.is_empty()).collect();
        let mut rules = MaskRules { common: HashMap::default(), parts, further };
        rules.common = COMMON.iter().map(|name| (*name, rules.classify(name))).collect();
        rules
    }

    /// The rule for the value of a (decoded) name.
    pub(super) fn rule_of(&self, name: &str) -> MaskRule {
        self.common.get(name).copied().unwrap_or_else(|| self.classify(name))
    }

    fn classify(&self, name: &str) -> MaskRule {
        let folded = fold(name);
        if self.contains_part(&folded) {
            return MaskRule::Mask;
        }
        if !folded.contains('.') {
            return self.segment(&folded, name);
        }
        // `shipper[name]`, `items[0].value`: inside a person everything but an id is masked.
        let mut inside = MaskRule::Keep;
        for name in name.split(separates) {
            let segment = fold(name);
            if segment.is_empty() {
                continue;
            }
            inside = match (inside, self.segment(&segment, name)) {
                (_, MaskRule::Mask) => return MaskRule::Mask,
                (MaskRule::Person | MaskRule::Place, _) if REGIONS.contains(&segment.as_str()) => MaskRule::Region,
                (MaskRule::Person | MaskRule::Place | MaskRule::Region, _) => return MaskRule::Mask,
                (_, rule) => rule,
            };
        }
        inside
    }

    /// The rule for the value of a (decoded) name inside a person or a place.
    pub(super) fn inside_person(&self, name: &str) -> MaskRule {
        let folded = fold(name);
        if REGIONS.contains(&folded.as_str()) && !self.further.contains(&folded) {
            MaskRule::Region
        } else {
            MaskRule::Mask
        }
    }

    /// The rule of one segment, folded and as it is written.
    fn segment(&self, segment: &str, written: &str) -> MaskRule {
        let personal_name = segment.ends_with("name") || segment.starts_with("name") || segment.starts_with("nama");
        if WHOLE.contains(&segment)
            || SECRET_WHOLE.contains(&segment)
            || (personal_name && !PUBLIC_NAMES.contains(&segment))
            || segment.starts_with("desc")
            || (segment.len() > 3 && (segment.ends_with("key") || segment.ends_with("url")))
            || self.further.iter().any(|further| further == segment)
        {
            MaskRule::Mask
        } else if PERSONS.contains(&segment) || ALSO_PERSONS.contains(&segment) {
            MaskRule::Person
        } else if PLACES.contains(&segment) {
            MaskRule::Place
        } else if is_personal(written) {
            MaskRule::Mask
        } else {
            MaskRule::Keep
        }
    }

    fn contains_part(&self, folded: &str) -> bool {
        folded.bytes().enumerate().any(|(at, byte)| {
            byte.is_ascii_lowercase()
                && self.parts[usize::from(byte - b'a')]
                    .iter()
                    .any(|part| folded.as_bytes()[at..].starts_with(part.as_bytes()))
        })
    }
}

/// Whether a (decoded) name is that of a secret, and not of something personal.
pub(super) fn is_secret(name: &str) -> bool {
    let folded = fold(name);
    SECRET_PARTS.iter().any(|part| folded.contains(part))
        || name.split(separates).any(|segment| SECRET_WHOLE.contains(&fold(segment).as_str()))
}

/// Whether a character separates the segments of a name.
fn separates(c: char) -> bool {
    c.is_ascii_punctuation() && !matches!(c, '-' | '_' | '+')
}

/// Lower case, without `-`, `_` and spaces; other punctuation becomes `.`.
fn fold(name: &str) -> String {
    let mut folded = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | ' ' | '+' => {}
            'a'..='z' | '0'..='9' => folded.push(c),
            'A'..='Z' => folded.push(c.to_ascii_lowercase()),
            c if c.is_alphanumeric() => folded.extend(c.to_lowercase()),
            // Invisible characters are dropped, so that they cannot disguise a name.
            c if separates(c) => folded.push('.'),
            _ => {}
        }
    }
    folded
}

/// Whether a bare value looks like the id of a region: 1 to 10 digits. Phone numbers have more.
pub(super) fn looks_like_region(value: &[u8]) -> bool {
    (1..=10).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}
