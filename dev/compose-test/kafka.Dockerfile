FROM firstcome-debian
COPY libs /opt/kafka/libs
COPY kafka-entrypoint /usr/local/bin/
# The tool itself is not among the jars; a broker that listens answers.
RUN mkdir -p /opt/kafka/bin && printf '#!/bin/bash\nexec 3<>"/dev/tcp/${2%%:*}/${2##*:}"\n' >/opt/kafka/bin/kafka-broker-api-versions.sh \
    && chmod +x /opt/kafka/bin/*
ENTRYPOINT ["kafka-entrypoint"]
