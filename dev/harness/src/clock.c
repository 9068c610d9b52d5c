/* Preloaded into one process: shifts its wall clock by the seconds in the file FIRSTCOME_TEST_CLOCK. CLOCK_MONOTONIC is unchanged.
   `gettimeofday` and `time` are only shifted for Redis, which reads its clock with them: librdkafka computes deadlines from them for
   waits that the kernel times with its own clock, and those would last as long as the shift. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t offset_now(void)
{
    static int file = -2;
    long long offset;
    if (file == -2) {
        const char *path = getenv("FIRSTCOME_TEST_CLOCK");
        file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    }
    return file >= 0 && pread(file, &offset, sizeof offset, 0) == sizeof offset ? offset : 0;
}

int clock_gettime(clockid_t id, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (result == 0 && id == CLOCK_REALTIME)
        now->tv_sec += offset_now();
    return result;
}

static int is_redis(void)
{
    return strcmp(program_invocation_short_name, "redis-server") == 0;
}

int gettimeofday(struct timeval *now, void *zone)
{
    static int (*real)(struct timeval *, void *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(now, zone);
    if (result == 0 && is_redis())
        now->tv_sec += offset_now();
    return result;
}

time_t time(time_t *now)
{
    static time_t (*real)(time_t *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "time");
    time_t at = real(NULL) + (is_redis() ? offset_now() : 0);
    if (now)
        *now = at;
    return at;
}
