#!/bin/sh
# For the day when nothing else runs: restores a backup over the databases and volumes of this stack.
# `docker/scripts/restore.sh --help` says how. Safe to run again; killed, the same command goes on.
set -eu

# What the stack calls things; each may be set in the environment.
: "${STACK_BACKUP_IMAGE:=rul-backup:dev}"
: "${STACK_SECRETS:=./secrets}"
: "${COMPOSE_PROJECT_NAME:=rul}"
: "${RESTORE_KEYS:=$STACK_SECRETS}" # the folder with backup_identity and the other keys
: "${RESTORE_USER:=10002:10000}"                # owns models and fleets in the volumes
: "${RESTORE_OWNER_SECRET:=migrator_database_url}"
: "${RESTORE_ADMIN_SECRET:=database_admin_url}"
: "${RESTORE_REDIS_SECRET:=restore_redis_url}"  # may SYNC, SCAN and UNLINK
: "${RESTORE_OFFSITE_SECRET:=drill_offsite_options}"
: "${STACK_BACKUP_OFFSITE:=$(sed -n 's/^STACK_BACKUP_OFFSITE=//p' .env 2>/dev/null || true)}"
: "${RESTORE_NETWORK:=${COMPOSE_PROJECT_NAME}_backend}"
: "${RESTORE_WAY_OUT:=${COMPOSE_PROJECT_NAME}_egress}"
: "${RESTORE_DATA_VOLUME:=${COMPOSE_PROJECT_NAME}_training_data}"      # at /data
: "${RESTORE_MODELS_VOLUME:=${COMPOSE_PROJECT_NAME}_model_artifacts}"  # at /data/models
: "${RESTORE_BACKUPS_VOLUME:=${COMPOSE_PROJECT_NAME}_backups}"         # at /backups
: "${RESTORE_SCRATCH_VOLUME:=${COMPOSE_PROJECT_NAME}_drill_scratch}"   # where a moment is recovered
: "${RESTORE_UNPACKED_VOLUME:=${COMPOSE_PROJECT_NAME}_restoring}"      # for a while, at /restoring
export COMPOSE_PROJECT_NAME

usage() {
  cat <<'END'
Usage: docker/scripts/restore.sh [OPTION]… [ARCHIVE.tar | MANIFEST]

Restores a backup over the databases and volumes of this stack: the newest in the volume of backups;
that of a MANIFEST there (its number, or manifests/00000007, or a run's name); or that of an ARCHIVE
of `rul backup export`; or, after the loss of the machine, one from beyond it. Everything but PostgreSQL and Redis is stopped first, and started by nobody:
`make up` does, once all is well. What was there before stays beside it.

  --to MOMENT         the database as it was at a moment, such as 2026-11-29T08:30:00Z, by its log; or
                      latest: all that was archived, a minute or two before the loss
  --off-site          fetches the run from STACK_BACKUP_OFFSITE first, by secrets/drill_offsite_options
  --identity FILE     decrypts, such as backup_escrow_identity from the safe
  --verify-key FILE   the public key of whoever made the backups
  --despite-golden    also where a model does not answer as it did
  --forget            instead: remove what was there before such a restore
  --help              this

On a new machine, where Dagster has no run yet, it also puts back what the stack itself had, as of the
week's snapshot: Grafana, Prometheus, logs and Dagster's database, each volume only where it is empty.
What the stack was set to comes as restored-configuration.tar; nothing is changed by it.

Without these files the keys are those in the folder that RESTORE_KEYS names, or else the secrets.
It runs in the project's folder, after `rul secrets init`; names are set at the script's top.
The files that landed and the lake are in no backup and stay as they are.
END
}

say() { printf '%s\n' "restore: $*" >&2; }
fail() { say "$*"; exit 1; }
# Secrets belong to the containers' users, so root may have to run this.
readable() { [ -f "$1" ] && [ -r "$1" ] || fail "$1 is no file that can be read; $2"; }
absolute() { printf '%s/%s' "$(cd "$(dirname "$1")" && pwd)" "$(basename "$1")"; }

what='' identity='' verify_key='' forget='' despite='' beyond='' moment=''
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --identity) [ $# -gt 1 ] || fail "--identity needs a file"; identity=$2; shift ;;
    --verify-key) [ $# -gt 1 ] || fail "--verify-key needs a file"; verify_key=$2; shift ;;
    --despite-golden) despite=yes ;;
    --to) [ $# -gt 1 ] || fail "--to needs a moment, or latest"; moment=$2; shift ;;
    --off-site) beyond=yes ;;
    --forget) forget=yes ;;
    -*) fail "$1 is no option; --help says which there are" ;;
    *) [ -z "$what" ] || fail "$what and $1: name one archive or manifest"; what=$1 ;;
  esac
  shift
done
[ -z "$forget" ] || [ -z "$what$beyond$moment" ] || fail "--forget takes no archive, manifest, store or moment"
case "$beyond$what" in yes*.tar) fail "$what lies here; leave --off-site away" ;; esac

# --- all that can be wrong is looked at before anything is stopped
command -v docker >/dev/null || fail "docker is not here; install Docker Engine with Compose"
[ -f compose.yaml ] || fail "compose.yaml is not here; run this in the project's folder"
docker image inspect "$STACK_BACKUP_IMAGE" >/dev/null 2>&1 ||
  fail "the image $STACK_BACKUP_IMAGE is not here; build it (make images), or load it"
for name in "$RESTORE_OWNER_SECRET" "$RESTORE_ADMIN_SECRET" "$RESTORE_REDIS_SECRET"; do
  readable "$STACK_SECRETS/$name" "make the secrets (rul secrets init), or name their folder by STACK_SECRETS"
done
[ -z "$identity" ] || readable "$identity" "give the file from the safe"
[ -z "$verify_key" ] || readable "$verify_key" "give the public key that was kept"
[ -f "$RESTORE_KEYS/backup_identity" ] || [ -n "$forget$identity" ] ||
  fail "$RESTORE_KEYS has no backup_identity; name the keys' folder by RESTORE_KEYS, or give --identity"
[ -f "$RESTORE_KEYS/backup_verify_key" ] || [ -n "$forget$verify_key" ] ||
  fail "$RESTORE_KEYS has no backup_verify_key; name the keys' folder by RESTORE_KEYS, or give --verify-key"
if [ -n "$beyond" ]; then
  [ -n "$STACK_BACKUP_OFFSITE" ] || fail "STACK_BACKUP_OFFSITE is not set, nor is it in .env; name the store"
  readable "$STACK_SECRETS/$RESTORE_OFFSITE_SECRET" "write the key of $STACK_BACKUP_OFFSITE into it"
fi

# --- which run, and by which keys, as the command in the container is told
fetched=/backups/.from-beyond.tar
mount=''
set --
if [ -z "$forget" ]; then
  [ -z "$identity" ] || set -- "$@" --identity /tmp/keys/given_identity
  [ -z "$verify_key" ] || set -- "$@" --verify-key /tmp/keys/given_verify_key
  case $what in
    '') ;;
    *.tar)
      readable "$what" "give an archive of \`rul backup export\`"
      mount=$(absolute "$what")
      set -- "$@" --store /restore/archive.tar
      ;;
    *) set -- "$@" --run "$what" ;;
  esac
  [ -z "$beyond" ] || set -- "$@" --store "$fetched"
fi

# --- keys and addresses go through a pipe into the container's memory: they lie on no other disk,
# and whoever they belong to here, the container's user can read them
keys=$(mktemp -d)
trap 'rm -rf "$keys"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
for name in backup_system backup_recipients backup_signing_key backup_verify_key backup_identity; do
  [ ! -f "$RESTORE_KEYS/$name" ] || ln -s "$(absolute "$RESTORE_KEYS/$name")" "$keys/$name"
done
[ -z "$beyond" ] || ln -s "$(absolute "$STACK_SECRETS/$RESTORE_OFFSITE_SECRET")" "$keys/offsite_options"
[ -z "$identity" ] || ln -s "$(absolute "$identity")" "$keys/given_identity"
[ -z "$verify_key" ] || ln -s "$(absolute "$verify_key")" "$keys/given_verify_key"
ln -s "$(absolute "$STACK_SECRETS/$RESTORE_OWNER_SECRET")" "$keys/owner_url"
ln -s "$(absolute "$STACK_SECRETS/$RESTORE_ADMIN_SECRET")" "$keys/admin_url"
ln -s "$(absolute "$STACK_SECRETS/$RESTORE_REDIS_SECRET")" "$keys/redis_url"

if [ -z "$forget" ]; then
  say "stops everything but PostgreSQL and Redis"
  # shellcheck disable=SC2046 # names of services are words
  docker compose stop $(docker compose config --services | grep -vx -e postgres -e redis)
fi
say "starts PostgreSQL and Redis"
docker compose up --detach --wait --no-build postgres redis
if ! docker compose exec -T postgres psql -U postgres -Atc \
  "SELECT 'there' FROM pg_database WHERE datname = 'rul'" </dev/null | grep -qx there; then
  say "the platform's database is not there: makes its roles and an empty one"
  docker compose run --rm -T migrate </dev/null
fi

# A container of the backup image with the keys in its memory: more of Docker's options, the image,
# `sh -c "$unpack" restore`, and a command.
unpack='umask 077; mkdir /tmp/keys; tar -xf - -C /tmp/keys; umask 007; exec "$@"'
contained() {
  tar -chf - -C "$keys" . | docker run --rm --interactive --user "$RESTORE_USER" \
    --read-only --cap-drop ALL --security-opt no-new-privileges --init \
    --tmpfs /tmp:size=256m,mode=1777 --volume "$RESTORE_BACKUPS_VOLUME:/backups" \
    --env RUL_BACKUP_STORE=/backups --env RUL_BACKUP_KEYS=/tmp/keys "$@"
}

if [ -n "$beyond" ]; then
  say "fetches from $STACK_BACKUP_OFFSITE"
  docker compose create --no-build alertmanager dagster-drill # for the way out, and the volume
  contained --network "$RESTORE_WAY_OUT" --env "RUL_BACKUP_OFFSITE=$STACK_BACKUP_OFFSITE" \
    --env RUL_BACKUP_OFFSITE_OPTIONS_FILE=/tmp/keys/offsite_options \
    "$STACK_BACKUP_IMAGE" sh -c "rm -f $fetched; $unpack" restore \
    rul backup export --store off-site --to "$fetched" ${what:+--run "$what"} ${moment:+--with-log} \
    ${verify_key:+--verify-key /tmp/keys/given_verify_key} ||
    fail "it cannot be fetched: why is above; nothing was changed"
fi

# Whether Dagster has a run: until then nobody has lived here. (Where its database or tables are not
# there yet, psql fails.)
lived() {
  docker compose exec -T postgres psql -U postgres -d dagster -Atc \
    "SELECT 'lived' FROM runs LIMIT 1" </dev/null 2>/dev/null | grep -qx lived
}
# Whether the same command restored the platform, and broke off after that: the volume in which what
# the stack had is unpacked says so, since it is made then and removed at the end.
goes_on() {
  [ "$(docker volume inspect --format '{{index .Labels "rul.restored"}}' "$RESTORE_UNPACKED_VOLUME" \
    2>/dev/null)" = "run: ${moment:+--to $moment }$*" ] && ! lived
}

if [ -z "$forget" ] && goes_on "$@"; then
  say "the platform is restored already: goes on after that"
else
  [ -n "$forget" ] || say "restores"
  if [ -n "$forget" ]; then how=--forget; else how=--over-live; fi
  contained --network "$RESTORE_NETWORK" \
    --volume "$RESTORE_DATA_VOLUME:/data" --volume "$RESTORE_MODELS_VOLUME:/data/models" \
    ${moment:+--volume "$RESTORE_SCRATCH_VOLUME:/scratch"} \
    ${mount:+--volume "$mount:/restore/archive.tar:ro"} \
    --env RUL_ROOT=/data --env RUL_DATABASE_URL_FILE=/tmp/keys/owner_url \
    --env RUL_DATABASE_ADMIN_URL_FILE=/tmp/keys/admin_url \
    --env RUL_REDIS_URL_FILE=/tmp/keys/redis_url \
    "$STACK_BACKUP_IMAGE" sh -c "$unpack" restore \
    rul backup restore "$how" ${despite:+--despite-golden} ${moment:+--to "$moment"} "$@" ||
    fail "it did not end well: what it said is above; nothing else was started"
  [ -n "$forget" ] || docker volume rm --force "$RESTORE_UNPACKED_VOLUME" >/dev/null
fi

# --- what the stack itself had. Dagster's database comes last: until it has a run, all is done again.

# In an empty volume: copied into a folder, which is renamed once it is whole, then moved up. Killed
# before that it begins anew, afterwards it goes on.
settle='
cd /volume
if [ ! -e .restored ]; then
  rm -rf .restoring
  if [ -n "$(find . -type f -print -quit)" ]; then
    echo "restore: the volume of $1 has files already and stays as it is" >&2
    exit 0
  fi
  cp -r "/restoring/stack/$1" .restoring
  chmod -R "$2" .restoring
  mv .restoring .restored
fi
find .restored -mindepth 1 -maxdepth 1 -exec mv -t . {} +
rmdir .restored'
# A folder of what was kept, its volume, the service whose image says whose the volume is, the user who
# writes to it, and who may read it.
put() {
  printf '%s\n' "$unpacked" | grep -qx "$1" || return 0
  say "puts back $1"
  docker compose create --no-build "$3" ||
    fail "$3 cannot be made: why is above; put its image here, and run this again"
  docker run --rm --network none --user "$4" --group-add "${RESTORE_USER#*:}" --entrypoint sh \
    --read-only --cap-drop ALL --security-opt no-new-privileges \
    --volume "$RESTORE_UNPACKED_VOLUME:/restoring:ro" --volume "${COMPOSE_PROJECT_NAME}_$2:/volume" \
    "$STACK_BACKUP_IMAGE" -euc "$settle" settle "$1" "$5" || fail "$1 was not put back: why is above"
}

# A program that looks at what was unpacked.
looking() {
  program=$1
  shift
  docker run --rm --network none --user "$RESTORE_USER" --entrypoint "$program" \
    --read-only --cap-drop ALL --security-opt no-new-privileges \
    --volume "$RESTORE_UNPACKED_VOLUME:/restoring:ro" "$STACK_BACKUP_IMAGE" "$@"
}

if [ -z "$forget" ] && ! lived; then
  say "unpacks what the stack itself had"
  docker volume create --label "rul.restored=run: ${moment:+--to $moment }$*" "$RESTORE_UNPACKED_VOLUME" >/dev/null
  contained --network none --volume "$RESTORE_UNPACKED_VOLUME:/restoring" \
    ${mount:+--volume "$mount:/restore/archive.tar:ro"} \
    "$STACK_BACKUP_IMAGE" sh -c "rm -rf /restoring/* /restoring/.[!.]*; $unpack" restore \
    rul backup restore-stack --into /restoring/stack "$@" ||
    fail "the platform is restored, what the stack had is not: why is above; run this again"
  unpacked=$(looking find /restoring -mindepth 2 -maxdepth 2 -printf '%f\n')
  put grafana grafana_data grafana 472:10000 u=rwX,g=rX,o=
  put prometheus prometheus_data prometheus 65534:65534 u=rwX,go=rX
  put dagster_logs dagster_logs dagster-janitor "$RESTORE_USER" ug=rwX,o=
  if printf '%s\n' "$unpacked" | grep -qx configuration; then
    looking tar -cf - -C /restoring/stack/configuration . >restored-configuration.tar ||
      fail "restored-configuration.tar cannot be written: why is above"
    say "restored-configuration.tar has what the stack was set to; compare it with .env and the files here"
  fi
  contained --network "$RESTORE_NETWORK" ${mount:+--volume "$mount:/restore/archive.tar:ro"} \
    --env RUL_DATABASE_ADMIN_URL_FILE=/tmp/keys/admin_url \
    "$STACK_BACKUP_IMAGE" sh -c "$unpack" restore rul backup restore-stack --dagster "$@" ||
    fail "Dagster's database was not put back: why is above; run this again"
fi
[ -n "$forget" ] || docker volume rm --force "$RESTORE_UNPACKED_VOLUME" >/dev/null

[ -n "$forget" ] || say "is done; look at it, then start the rest: make up"
