#!/bin/sh
# Alertmanager reads one file: the routes, which everybody may see, and who is told, which is secret.
set -eu
umask 077
cat /etc/alertmanager/routes.yml /run/secrets/alert_receivers >/tmp/alertmanager.yml
amtool check-config /tmp/alertmanager.yml
exec alertmanager --config.file=/tmp/alertmanager.yml "$@"
