# Of the entry point of the image `postgres`, what infra/compose.yaml asks of it.
set -eu
# initdb asks for the name of whoever runs it
echo "postgres:x:$(id -u):$(id -g)::/:/bin/false" > /tmp/passwd
echo "postgres:x:$(id -g):" > /tmp/group
export NSS_WRAPPER_PASSWD=/tmp/passwd NSS_WRAPPER_GROUP=/tmp/group LD_PRELOAD=libnss_wrapper.so
chmod 700 "$(dirname "$PGDATA")"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # shellcheck disable=SC2086
  initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
fi
exec "$@" --listen_addresses='*' --unix_socket_directories=/var/run/postgresql
