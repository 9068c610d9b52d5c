#!/bin/bash
# The health check of docker-compose.yml. The jars of the broker have no command-line tools, so this
# only connects.
[ "$1" = --bootstrap-server ]
exec 3<>"/dev/tcp/${2%:*}/${2#*:}"
