FROM firstcome-debian
COPY mailpit /usr/local/bin/
CMD ["mailpit"]
