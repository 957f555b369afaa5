//! Each courier's description of each step of an order. They differ, as in reality: a client must not rely on the
//! wording. The texts are made up.

use crate::orders::steps::Step;

/// The courier's description of a step.
pub(crate) fn text(courier_code: &str, step: Step) -> &'static str {
    let own = match courier_code {
        "anteraja" => anteraja(step),
        "idx" => idx(step),
        "paxel" => paxel(step),
        "lalamove" => lalamove(step),
        "grab" => grab(step),
        _ => None,
    };
    own.unwrap_or_else(|| common(step))
}

/// Until a courier is involved, the description is Fastrac's own.
fn common(step: Step) -> &'static str {
    match step {
        Step::WaitingPayment => "Menunggu pembayaran",
        Step::Paid => "Pembayaran diterima",
        Step::Scheduled => "Pesanan dijadwalkan",
        Step::Confirmed => "Pesanan dikonfirmasi",
        Step::CourierNotFound => "Kurir tidak ditemukan, mencari lagi",
        Step::PendingPickup => "Menunggu penjemputan oleh kurir",
        Step::PendingDropoff => "Menunggu paket diantar ke agen",
        Step::Picked => "Paket telah dijemput",
        Step::Dropped => "Paket telah diterima di agen",
        Step::Departed => "Paket dalam perjalanan",
        Step::Arrived => "Paket tiba di kota tujuan",
        Step::Out => "Paket dibawa kurir ke alamat penerima",
        Step::Delivered => "Paket telah diterima",
        Step::Problem => "Pengiriman bermasalah",
        Step::Rts => "Paket dikembalikan ke pengirim",
        Step::Returned => "Paket telah kembali ke pengirim",
        Step::Cancelled => "Pesanan dibatalkan",
    }
}

fn anteraja(step: Step) -> Option<&'static str> {
    Some(match step {
        Step::Picked => "Parcel sudah di-pickup oleh SATRIA",
        Step::Dropped => "Parcel sudah diterima di Anteraja Service Point",
        Step::Departed => "Parcel keluar dari hub asal menuju hub tujuan",
        Step::Arrived => "Parcel sampai di hub tujuan",
        Step::Out => "Delivery sedang dilakukan oleh SATRIA",
        Step::Delivered => "Delivery sukses, parcel diterima oleh penerima",
        Step::Problem => "Delivery gagal: alamat tidak ditemukan",
        Step::Rts => "Parcel dikembalikan ke pengirim (RTS)",
        Step::Returned => "Parcel sudah diterima kembali oleh pengirim",
        _ => return None,
    })
}

fn idx(step: Step) -> Option<&'static str> {
    Some(match step {
        Step::Picked => "PICK UP BY COURIER",
        Step::Dropped => "RECEIVED AT DROP POINT",
        Step::Departed => "DEPARTED FROM ORIGIN SORTING CENTER",
        Step::Arrived => "ARRIVED AT DESTINATION TH",
        Step::Out => "WITH DELIVERY COURIER",
        Step::Delivered => "POD - DELIVERED TO RECIPIENT",
        Step::Problem => "PROBLEM ON SHIPMENT - CNEE UNKNOWN",
        Step::Rts => "RETURN PROCESS TO SHIPPER",
        Step::Returned => "RETURNED TO SHIPPER",
        Step::Cancelled => "ORDER CANCELED",
        _ => return None,
    })
}

fn paxel(step: Step) -> Option<&'static str> {
    Some(match step {
        Step::Picked => "Hero sudah mengambil paketmu",
        Step::Departed => "Paket dalam perjalanan ke locker",
        Step::Arrived => "Paket tiba di locker tujuan",
        Step::Out => "Hero menuju alamat penerima",
        Step::Delivered => "Yay! Paket sudah sampai",
        Step::Problem => "Hero tidak berhasil menemui penerima",
        Step::Rts => "Hero mengantar paket kembali ke pengirim",
        Step::Returned => "Paket sudah kembali ke pengirim",
        _ => return None,
    })
}

fn lalamove(step: Step) -> Option<&'static str> {
    Some(match step {
        Step::Confirmed => "ASSIGNING_DRIVER",
        Step::PendingPickup => "ON_GOING: driver is on the way to pick up",
        Step::Picked => "PICKED_UP",
        Step::Departed => "PICKED_UP: on the way to drop-off",
        Step::Delivered => "COMPLETED",
        Step::Problem => "REJECTED at drop-off",
        Step::Rts => "Returning to sender",
        Step::Returned => "RETURNED",
        Step::CourierNotFound => "EXPIRED: no driver accepted",
        Step::Cancelled => "CANCELED",
        _ => return None,
    })
}

fn grab(step: Step) -> Option<&'static str> {
    Some(match step {
        Step::Confirmed => "Allocating a driver",
        Step::PendingPickup => "Driver is heading to the sender",
        Step::Picked => "Driver has picked up the item",
        Step::Departed => "Item is in delivery",
        Step::Delivered => "Delivery completed",
        Step::Problem => "Delivery failed, recipient can't be reached",
        Step::Rts => "Item is being returned to the sender",
        Step::Returned => "Item was returned to the sender",
        Step::CourierNotFound => "No driver available nearby",
        Step::Cancelled => "Delivery was cancelled",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::couriers;

    #[test]
    fn couriers_write_in_their_own_words() {
        let texts: HashSet<&str> = couriers::all().iter().map(|courier| text(courier.code, Step::Delivered)).collect();
        assert_eq!(texts.len(), couriers::all().len());
    }
}
