FROM firstcome-debian
COPY root /opt/mysql
COPY mysql-entrypoint /usr/local/bin/
# The programs bring a C library of their own.
RUN for program in bin/mysql bin/mysqladmin sbin/mysqld; do \
        printf '#!/bin/sh\nexec %s/ld-linux-x86-64.so.2 --library-path %s /opt/mysql/usr/%s "$@"\n' \
            /opt/mysql/usr/lib/x86_64-linux-gnu /opt/mysql/usr/lib/x86_64-linux-gnu:/opt/mysql/usr/lib/mysql/private "$program" \
            >"/usr/local/bin/${program##*/}"; \
    done && chmod +x /usr/local/bin/*
ENTRYPOINT ["mysql-entrypoint"]
CMD ["mysqld"]
