//! Which member and parameter names hide their values.
//!
//! Names are compared without case, `-`, `_` and spaces; other punctuation separates segments, so
//! `shipper[phone]` and `shipper.phone` are read as `phone` of `shipper`. When in doubt a value is
//! masked: a line that says too little can be asked again, one that says too much cannot be unsaid.
//! Pure; knows nothing of JSON.

use std::collections::HashMap;

/// What a name says of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaskRule {
    /// It may stand.
    Keep,
    /// It is masked whole.
    Mask,
    /// A person: of an object only the ids of regions stand, anything else is masked.
    Person,
    /// A place: as a person, but a bare id of a region may stand.
    Place,
    /// The id of a region inside a person or place: stands if it looks like one.
    Region,
}

/// Parts that make any name that holds them a secret or personal.
const PARTS: &[&str] = &[
    // secrets
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
    "webhook",
    "callback",
    // persons and how to reach them
    "phone",
    "telepon",
    "telp",
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
    "accountnumber",
    "npwp",
    // where they live
    "address",
    "alamat",
    "street",
    "jalan",
    "latitude",
    "longitude",
    "coord",
    "koordinat",
    "geo",
    "landmark",
    "patokan",
    // what they typed
    "keyword",
    "search",
    "keterangan",
    "catatan",
    "note",
    "remark",
    "comment",
    "instruction",
    "instruksi",
    "reason",
];

/// Names that are secret or personal only when they stand alone.
const WHOLE: &[&str] = &[
    "key", "pin", "otp", "pass", "jwt", "sig", "hmac", "basic", "url", "uri", "lat", "lng", "lon", "long", "hp",
    "nohp", "wa", "nowa", "tel", "fax", "nik", "ktp", "dob", "pic", "q", "query", "rt", "rw", "rtrw", "user", "ssn",
    "card",
];

/// Names that end in `name` (or begin with `name`, `nama`) and say nothing of a person. Any other such name is masked,
/// a plain `name` too: the name of a region can't be told from that of a receiver.
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

const PERSONS: &[&str] = &[
    "shipper",
    "receiver",
    "reciever",
    "sender",
    "recipient",
    "consignee",
    "consignor",
    "customer",
    "buyer",
    "seller",
    "merchant",
    "pengirim",
    "penerima",
    "pembeli",
    "penjual",
    "pelanggan",
    "stop",
    "stops",
    "person",
];

const PLACES: &[&str] = &["origin", "destination", "pickuppoint", "dropoffpoint", "location", "lokasi"];

const REGIONS: &[&str] = &["id", "regionid", "subdistrictid", "districtid", "cityid", "provinceid"];

/// Names that requests and answers of Fastrac's are full of: judged once, not each time that they come. What is
/// not here is judged all the same, so this list decides nothing.
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
    /// Rulings of [`COMMON`].
    common: HashMap<&'static str, MaskRule>,
    /// [`PARTS`] grouped by first byte.
    parts: [Vec<&'static str>; 26],
    /// From the configuration, folded.
    further: Vec<String>,
}

impl MaskRules {
    pub(super) fn new(further: &[String]) -> MaskRules {
        let mut parts: [Vec<&'static str>; 26] = Default::default();
        for part in PARTS {
            parts[usize::from(part.as_bytes()[0] - b'a')].push(part);
        }
        let further = further.iter().map(|name| fold(name).replace('.', "")).filter(|name| !name.is_empty()).collect();
        let mut rules = MaskRules { common: HashMap::new(), parts, further };
        rules.common = COMMON.iter().map(|name| (*name, rules.judge(name))).collect();
        rules
    }

    /// What the (decoded) name says of its value.
    pub(super) fn of(&self, name: &str) -> MaskRule {
        self.common.get(name).copied().unwrap_or_else(|| self.judge(name))
    }

    fn judge(&self, name: &str) -> MaskRule {
        let folded = fold(name);
        if self.holds_part(&folded) {
            return MaskRule::Mask;
        }
        if !folded.contains('.') {
            return self.segment(&folded);
        }
        // `shipper[name]`, `items[0].value`: a part inside a person is masked by any segment but an id.
        let mut inside = MaskRule::Keep;
        for segment in folded.split('.').filter(|segment| !segment.is_empty()) {
            inside = match (inside, self.segment(segment)) {
                (_, MaskRule::Mask) => return MaskRule::Mask,
                (MaskRule::Person | MaskRule::Place, _) if REGIONS.contains(&segment) => MaskRule::Region,
                (MaskRule::Person | MaskRule::Place | MaskRule::Region, _) => return MaskRule::Mask,
                (_, ruling) => ruling,
            };
        }
        inside
    }

    /// What the (decoded) name says of its value inside a person or a place.
    pub(super) fn inside_person(&self, name: &str) -> MaskRule {
        let folded = fold(name);
        if REGIONS.contains(&folded.as_str()) && !self.further.contains(&folded) {
            MaskRule::Region
        } else {
            MaskRule::Mask
        }
    }

    fn segment(&self, segment: &str) -> MaskRule {
        let personal_name = segment.ends_with("name") || segment.starts_with("name") || segment.starts_with("nama");
        if WHOLE.contains(&segment)
            || (personal_name && !PUBLIC_NAMES.contains(&segment))
            || segment.starts_with("desc")
            || (segment.len() > 3 && (segment.ends_with("key") || segment.ends_with("url")))
            || self.further.iter().any(|further| further == segment)
        {
            MaskRule::Mask
        } else if PERSONS.contains(&segment) {
            MaskRule::Person
        } else if PLACES.contains(&segment) {
            MaskRule::Place
        } else {
            MaskRule::Keep
        }
    }

    fn holds_part(&self, folded: &str) -> bool {
        folded.bytes().enumerate().any(|(at, byte)| {
            byte.is_ascii_lowercase()
                && self.parts[usize::from(byte - b'a')]
                    .iter()
                    .any(|part| folded.as_bytes()[at..].starts_with(part.as_bytes()))
        })
    }
}

/// Lower case, without `-`, `_`, spaces; other punctuation as one kind of separator.
fn fold(name: &str) -> String {
    let mut folded = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | ' ' | '+' => {}
            'a'..='z' | '0'..='9' => folded.push(c),
            'A'..='Z' => folded.push(c.to_ascii_lowercase()),
            c if c.is_alphanumeric() => folded.extend(c.to_lowercase()),
            // Invisible characters must not hide a name.
            c if c.is_ascii_punctuation() => folded.push('.'),
            _ => {}
        }
    }
    folded
}

/// Whether a bare value looks like the id of a region: at most 10 digits. A phone number has more.
pub(super) fn looks_like_region(value: &[u8]) -> bool {
    (1..=10).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}
