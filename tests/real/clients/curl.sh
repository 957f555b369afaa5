#!/usr/bin/env bash
# A Fastrac client that uses curl: V2 with Basic (-u), V1 with the pair of headers, tracking by GET with a body.
# BASE_URL, ACCESS and SECRET come from the environment; they name Fastrac or a gateway.
set -euo pipefail
: "${BASE_URL:?}" "${ACCESS:?}" "${SECRET:?}"
pair=(-H "access-key: $ACCESS" -H "secret-key: $SECRET")
json=(-H 'Content-Type: application/json')

# call NAME PATH CURL-ARGUMENTS…: prints a line with the status, and the body, and keeps the body in $body
call() {
  local name=$1 path=$2 answer
  shift 2
  answer=$(curl -sS --max-time 20 -w '\n%{http_code} %{content_type}' "$@" "$BASE_URL$path")
  body=${answer%$'\n'*}
  printf '## %s %s\n%s\n' "$name" "${answer##*$'\n'}" "$body"
}
# member NAME: the first string or number with that name in $body
member() { sed -nE "s/.*\"$1\" *: *\"?([^\",}]*)\"?.*/\1/p" <<<"${body//,/,$'\n'}" | head -n 1; }

call v2.province /region/province -u "$ACCESS:$SECRET"
call v2.city '/region/city?province_id=32' -u "$ACCESS:$SECRET"
call v2.search_region /region/search -u "$ACCESS:$SECRET" "${json[@]}" -d '{"keyword":"gambir","limit":2}'
region=$(member id)
region=${region:-3171011001}
call v2.couriers /courier/all -u "$ACCESS:$SECRET"
courier=$(member courier_code)
call v2.courier_services /courier/service -G --data-urlencode "courier_code=$courier" -u "$ACCESS:$SECRET"
service=$(member code_service)
who='{"name":"Agus","phone":"6281200000004","address":"Jl. Contoh 4","region_id":'$region'}'
item='{"name":"Sepatu","desc":"Sepatu","category":"Pakaian","value":250000,"weight":1500,"length":30,"width":20,"height":12,"qty":1}'
call v2.order_express /order/express -u "$ACCESS:$SECRET" "${json[@]}" -d '{"courier_code":"'"$courier"'","code_service":"'"$service"'",
  "cod":"0","insurance":"0","pickup":"0","shipper":'"$who"',"receiver":'"$who"',"item":'"$item"'}'
awb=$(member awb)
call v2.track /order/track -X GET -u "$ACCESS:$SECRET" "${json[@]}" -d '{"courier_code":"'"$courier"'","awb":"'"$awb"'"}'
call v2.order_cancel /order/cancel -u "$ACCESS:$SECRET" "${json[@]}" -d '{"courier_code":"'"$courier"'","awb":"'"$awb"'","cancel_reason":"stok habis"}'
call v1.couriers /apiCourier/all-courier "${pair[@]}"
call v1.post_code '/apiRegion/postCode?post_code=10110' "${pair[@]}"
call v1.search_region /apiRegion/search-region "${pair[@]}" "${json[@]}" -d '{"search":"gambir","limit":2,"offset":0}'
