/* Preloaded into one process: shifts its wall clock by the first number in the file FIRSTCOME_TEST_CLOCK, in milliseconds, or stops
   it at the second one, if that is not 0. CLOCK_MONOTONIC is unchanged.
   `gettimeofday` and `time` are shifted only for Redis, which reads its clock with them. In other programs librdkafka computes deadlines
   from them, for waits that the kernel times with its own clock: with a shifted time, such a wait would last as long as the shift. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

/* Returns what the clock shows at this real time. Both are in nanoseconds. */
static long long shifted(long long real)
{
    static int file = -2;
    long long set[2];
    if (file == -2) {
        const char *path = getenv("FIRSTCOME_TEST_CLOCK");
        file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    }
    if (file < 0 || pread(file, set, sizeof set, 0) != sizeof set)
        return real;
    return set[1] ? set[1] * (SECOND / 1000) : real + set[0] * (SECOND / 1000);
}

int clock_gettime(clockid_t id, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (result == 0 && id == CLOCK_REALTIME) {
        long long at = shifted(now->tv_sec * SECOND + now->tv_nsec);
        now->tv_sec = at / SECOND;
        now->tv_nsec = at % SECOND;
    }
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
    if (result == 0 && is_redis()) {
        long long at = shifted(now->tv_sec * SECOND + now->tv_usec * 1000LL);
        now->tv_sec = at / SECOND;
        now->tv_usec = at % SECOND / 1000;
    }
    return result;
}

time_t time(time_t *now)
{
    static time_t (*real)(time_t *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "time");
    time_t at = real(NULL);
    if (is_redis())
        at = shifted(at * SECOND) / SECOND;
    if (now)
        *now = at;
    return at;
}
