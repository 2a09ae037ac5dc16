#!/bin/sh
# Keeps nginx' list of API instances as Docker's DNS has it, so that `--scale api=10` is noticed and
# every one gets its share (least connections). nginx 1.27.3 and newer can do that by itself
# (`server … resolve`); this works with older ones too, and stays well while DNS does not answer.
#
# None is ever marked as failed: a question that is slow everywhere would mark all, and then nobody
# is asked. One that is gone leaves the list within seconds; until then the next one is asked.
#
# Runs beside nginx: /docker-entrypoint.d/ starts it, and the loop outlives the entrypoint. Where it
# looks no more, the health check (compose.yaml) ends nginx, so that Docker starts both anew.
set -eu

service=${API_SERVICE:-api} port=${API_PORT:-8000} every=${API_LOOK_SECONDS:-2}
list=/tmp/api-instances.conf alive=/tmp/api-instances.looked-at

# Whose word on the client's address is taken.
for proxy in ${TRUSTED_PROXIES:-}; do echo "set_real_ip_from $proxy;"; done >/tmp/trusted-proxies.conf

instances() { getent ahostsv4 "$service" | cut -d' ' -f1 | sort -u; }

write_list() { # ADDRESSES
  servers=$(for address in $1; do echo "server $address:$port max_fails=0;"; done)
  # Without any instance nginx must still start, and answer 503.
  echo "${servers:-server 127.0.0.1:1 down;}" >"$list.new" && mv "$list.new" "$list"
}

known=$(instances || true)
write_list "$known"
touch "$alive"

follow() {
  while :; do
    sleep "$every" || true
    found=$(instances || true)
    touch "$alive" || true
    # No answer at all is DNS' fault, not the instances'.
    [ -n "$found" ] && [ "$found" != "$known" ] || continue
    if write_list "$found" && nginx -s reload 2>/dev/null; then
      known=$found
    else
      echo "follow-api: nginx could not be told of $(echo "$found" | tr '\n' ' '); trying again" >&2
    fi
  done
}
follow &
