#!/bin/sh
# After a removal. Configuration and data stay: they are yours.
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
