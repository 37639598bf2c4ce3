#!/bin/sh
# What the broker's container runs (infra/compose.yaml), in any image that has Kafka's jars in /opt/kafka/libs: formats an
# empty folder, then starts on the settings that `estuaire deployment prepare` has written. With KAFKA_OUTSIDE (a name and a
# port, by which clients elsewhere reach it) it listens for them too, on 9095.
set -eu
cd /tmp
run() { java -cp '/opt/kafka/libs/*' "-Dlog4j2.configurationFile=/etc/estuaire/log4j2.yaml" "$@"; }
settings=/etc/estuaire/kafka/broker.properties
[ -f /var/lib/kafka/data/meta.properties ] \
  || run kafka.tools.StorageTool format -t "$(run kafka.tools.StorageTool random-uuid)" -c "$settings"
[ -z "${KAFKA_OUTSIDE:-}" ] || set -- \
  --override "listeners=CLIENT://:9093,OUTSIDE://:9095,CONTROLLER://127.0.0.1:9094" \
  --override "advertised.listeners=CLIENT://kafka:9093,OUTSIDE://$KAFKA_OUTSIDE"
exec java -Xms256m "-Xmx${KAFKA_HEAP:-1g}" -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError \
  -cp '/opt/kafka/libs/*' "-Dlog4j2.configurationFile=/etc/estuaire/log4j2.yaml" kafka.Kafka "$settings" "$@"
