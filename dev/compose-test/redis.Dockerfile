FROM firstcome-debian
WORKDIR /data
CMD ["redis-server", "--protected-mode", "no"]
