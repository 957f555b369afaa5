// A Fastrac client that uses Node's fetch: V2 with Basic, V1 with the pair of headers. Tracking uses node:http,
// because fetch refuses a GET with a body. BASE_URL, ACCESS and SECRET come from the environment; they name Fastrac
// or a gateway.
import http from "node:http";

const { BASE_URL, ACCESS, SECRET } = process.env;
const basic = { authorization: "Basic " + Buffer.from(`${ACCESS}:${SECRET}`).toString("base64") };
const pair = { "access-key": ACCESS, "secret-key": SECRET, "content-type": "application/json" };

function show(name, status, type, text) {
  console.log(`## ${name} ${status} ${type}\n${text}`);
  try { return JSON.parse(text).data ?? {}; } catch { return {}; }
}

async function call(name, auth, method, path, body) {
  const headers = body ? { ...auth, "content-type": "application/json" } : auth;
  const answer = await fetch(BASE_URL + path, { method, headers, body: body && JSON.stringify(body) });
  return show(name, answer.status, answer.headers.get("content-type"), await answer.text());
}

function track(name, auth, path, parcel) {
  const body = JSON.stringify(parcel);
  const headers = { ...auth, "content-type": "application/json", "content-length": Buffer.byteLength(body) };
  return new Promise((resolve, reject) => {
    const request = http.request(BASE_URL + path, { method: "GET", headers }, (answer) => {
      const pieces = [];
      answer.on("data", (piece) => pieces.push(piece));
      answer.on("end", () => resolve(show(name, answer.statusCode, answer.headers["content-type"], Buffer.concat(pieces).toString())));
    });
    request.on("error", reject);
    request.end(body);
  });
}

const provinces = await call("v2.province", basic, "GET", "/region/province");
await call("v2.city", basic, "GET", `/region/city?province_id=${provinces[1]?.province_id ?? 12}`);
const found = await call("v2.search_region", basic, "POST", "/region/search", { keyword: "menteng", limit: 3 });
const region = found[0]?.id ?? 3171031001;
const couriers = await call("v2.couriers", basic, "GET", "/courier/all");
const courier = (Array.isArray(couriers) ? couriers : []).find((row) => row.express_delivery)?.courier_code ?? "anteraja";
const services = await call("v2.courier_services", basic, "GET", `/courier/service?courier_code=${encodeURIComponent(courier)}`);
const service = services.express_delivery?.[0]?.code_service ?? "reg";
const items = [{ name: "Buku", weight: 1200, width: 20, height: 5, length: 30, quantity: 1, value: 90000 }];
await call("v2.tariff_express", basic, "POST", "/tariff/express", { origin: region, destination: region, items, cod: "1", insurance: "0" });
const who = { name: "Siti", phone: "6281200000003", address: "Jl. Contoh 3", region_id: region };
const made = await call("v2.order_express", basic, "POST", "/order/express", {
  courier_code: courier, code_service: service, cod: "1", cod_amount: 90000, insurance: "1", pickup: "0", shipper: who, receiver: who,
  item: { name: "Buku", desc: "Buku tulis", category: "Dokumen", value: 90000, weight: 1200, length: 30, width: 20, height: 5, qty: 1 },
});
const parcel = { courier_code: courier, awb: made.awb ?? "FSTRA0000000000000000001" };
await track("v2.track", basic, "/order/track", parcel);
await call("v2.order_cancel", basic, "POST", "/order/cancel", { ...parcel, cancel_reason: "alamat salah" });
await track("v2.track, unknown awb", basic, "/order/track", { courier_code: courier, awb: "TIDAK-ADA" });
await call("v1.search_region", pair, "POST", "/apiRegion/search-region", { search: "menteng" });
await call("v1.couriers", pair, "GET", "/apiCourier/all-courier");
await track("v1.track", pair, "/apiOrder/trackingOrder", parcel);
