# Cache row: Varnish's own cache and nothing else (no caller is checked on a hit). Its built-in rules
# decide: the upstream's Cache-Control is obeyed.
vcl 4.1;

backend fastrac {
    .host = "127.0.0.1";
    .port = "@UPSTREAM@";
}

sub vcl_backend_fetch {
    set bereq.http.host = "b2b-api.example";
    set bereq.http.access-key = "@FASTRAC_ACCESS@";
    set bereq.http.secret-key = "@FASTRAC_SECRET@";
}
