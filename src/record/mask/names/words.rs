//! Names that are personal or secret by their words.
//!
//! The words of a name end at `_`, `-`, a space, a digit, and where camelCase begins a new one. Lists are of words as
//! couriers' and merchants' APIs use them, Indonesian and English. Pure; never fails.

/// A name with one of these words is personal or secret.
const PERSONAL: &[&str] = &[
    // secrets
    "pin",
    "otp",
    "pass",
    "jwt",
    "sig",
    "hmac",
    "cvc",
    "ccv",
    "csrf",
    "rahasia",
    "kunci",
    "sesi",
    // how to reach a person
    "hp",
    "hape",
    "cell",
    "seluler",
    "selular",
    "mail",
    "wa",
    "tel",
    "tlp",
    "tlpn",
    "fax",
    "cp",
    "msisdn",
    "telegram",
    "instagram",
    "facebook",
    "tiktok",
    "twitter",
    "ip",
    "imei",
    // who a person is
    "nik",
    "kk",
    "bpjs",
    "kitas",
    "kitap",
    "nip",
    "nisn",
    "nim",
    "nrp",
    "stnk",
    "bpkb",
    "sim",
    "ssn",
    "dob",
    "pic",
    "user",
    "username",
    "fullname",
    "firstname",
    "lastname",
    "surname",
    "nickname",
    "alias",
    "attn",
    "kandung",
    "ayah",
    "suami",
    "istri",
    "mother",
    "father",
    "maiden",
    "spouse",
    "holder",
    "agama",
    "religion",
    "foto",
    "photo",
    "selfie",
    "avatar",
    "ttd",
    "nopol",
    "plat",
    "plate",
    // accounts
    "rek",
    "va",
    "cc",
    "pan",
    "iban",
    "card",
    "kartu",
    // free text
    "pesan",
    "memo",
    "cari",
    "pencarian",
    "telusur",
    "penelusuran",
    "komentar",
    "ulasan",
    "review",
    "feedback",
    "tanggapan",
    "masukan",
    "saran",
    "keluhan",
    "complaint",
    "alasan",
    "ucapan",
    "greeting",
    "uraian",
    "penjelasan",
    "kronologi",
    "petunjuk",
    "arahan",
    // where a person lives
    "position",
    "posisi",
    "lat",
    "lng",
    "lon",
    "long",
    "gps",
    "lintang",
    "bujur",
    "titik",
    "peta",
    "gmap",
    "maps",
    "gmaps",
    "rt",
    "rw",
    "jl",
    "jln",
    "gang",
    "gg",
    "blok",
    "kavling",
    "rumah",
    "komplek",
    "kompleks",
    "kampung",
    "ruko",
    "kost",
    "domisili",
    "domicile",
    "residence",
    "tinggal",
    "floor",
    "suite",
    "perumahan",
    "gedung",
    "dusun",
    "lantai",
    "building",
    "house",
    "apartment",
    "apartemen",
];

/// Words that say that a name is one of a person, unless all other words are of [`NOT_OF_PERSONS`].
const NAME: &[&str] = &["name", "names", "nama"];
const NOT_OF_PERSONS: &[&str] = &[
    "courier",
    "kurir",
    "service",
    "layanan",
    "province",
    "provinsi",
    "city",
    "kota",
    "district",
    "kecamatan",
    "sub",
    "subdistrict",
    "kelurahan",
];

/// Words for persons. What else is said of them is personal, unless all other words are of [`NEUTRAL`].
pub(super) const PERSONS: &[&str] = &[
    "shipper",
    "consigner",
    "consignor",
    "sender",
    "receiver",
    "reciever",
    "recipient",
    "consignee",
    "customer",
    "buyer",
    "seller",
    "merchant",
    "pengirim",
    "penerima",
    "pembeli",
    "penjual",
    "pelanggan",
    "konsumen",
    "pemesan",
    "pemilik",
    "driver",
    "rider",
    "sopir",
    "supir",
    "pengemudi",
    "nasabah",
    "pemegang",
    "owner",
];
const NEUTRAL: &[&str] = &[
    "id",
    "ids",
    "code",
    "kode",
    "type",
    "tipe",
    "city",
    "kota",
    "province",
    "provinsi",
    "district",
    "kecamatan",
    "sub",
    "subdistrict",
    "kelurahan",
    "region",
    "area",
    "postal",
    "post",
    "zip",
    "pos",
    "country",
    "negara",
    "order",
    "ref",
    "reference",
    "price",
    "cost",
    "fee",
    "amount",
    "total",
    "harga",
    "biaya",
    "status",
    "count",
    "weight",
    "service",
    "courier",
    "group",
    "level",
    "tier",
    "paid",
];

/// Whether the name of a segment is personal or secret by its words.
pub(super) fn is_personal(name: &str) -> bool {
    let words = words(name);
    let has = |list: &[&str]| words.split(' ').any(|word| list.contains(&word));
    let others_are = |own: &[&str], list: &[&str]| {
        let mut others = words.split(' ').filter(|word| !word.is_empty() && !own.contains(word)).peekable();
        others.peek().is_some() && others.all(|word| list.contains(&word))
    };
    has(PERSONAL) || has(NAME) && !others_are(NAME, NOT_OF_PERSONS) || has(PERSONS) && !others_are(PERSONS, NEUTRAL)
}

/// The words in lower case, separated by spaces; digits are left out.
fn words(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 8);
    let (mut before, mut characters) = (' ', name.chars().filter(|c| !is_invisible(*c)).peekable());
    while let Some(c) = characters.next() {
        if !c.is_alphabetic() {
            words.push(' ');
        } else {
            let next_is_lower = characters.peek().is_some_and(|next| next.is_lowercase());
            // `nomorHp` and `KTPNumber`
            if c.is_uppercase() && (before.is_lowercase() || before.is_uppercase() && next_is_lower) {
                words.push(' ');
            }
            words.extend(c.to_lowercase());
        }
        before = c;
    }
    words
}

/// Whether a character cannot be seen and separates nothing.
fn is_invisible(c: char) -> bool {
    !c.is_ascii() && !c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_where_a_reader_sees_an_end() {
        for (name, expected) in [
            ("no_hp_penerima", "no hp penerima"),
            ("nomorHp", "nomor hp"),
            ("nomorHP2", "nomor hp "),
            ("KTPNumber", "ktp number"),
            ("NIK", "nik"),
            ("Nama-Penerima", "nama penerima"),
            ("h\u{200b}p", "hp"),
        ] {
            assert_eq!(words(name), expected, "{name}");
        }
    }
}
