/* Worker threads that sleep when there has been no work for a while. Any number of callers may share
 * them: the parts of a job are handed out by a counter, its caller computes all that no worker has
 * begun, and waits for those alone that a worker is computing. So a busy machine holds nobody up. */
#include "blas.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

typedef struct job {
    void (*part)(void *, int);
    void *context;
    int parts;
    atomic_int next; /* the first part that nobody has taken */
    atomic_int helpers; /* workers computing parts of this job; written under `lock`, as all below */
    struct job *after;
    pthread_cond_t finished;
} job;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static job *jobs;
static int workers, idle;
static atomic_int posted; /* jobs so far; written under `lock` */

/* Nanoseconds. To wake a thread takes longer than most jobs of a training step follow one another
 * by, so one that has nothing to do stays awake a while. */
#define AWAKE 100000LL
#define LOST_CORE 200000LL /* more than a late start or a long part, less than a time slice */
#define SHORTEST_PAUSE 1000000LL
#define LONGEST_PAUSE 128000000LL
static atomic_llong pause_time, paused_until;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

INLINE void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Waits awake; whether `value` is another one than `from` before the time is over. */
static int changes(const atomic_int *value, int from) {
    int64_t until = now() + AWAKE;
    do
        for (int i = 0; i < 32; i++, relax())
            if (atomic_load(value) != from) return 1;
    while (now() < until);
    return 0;
}

/* Takes a part of a job that may have one more helper; NULL if there is none. */
static job *join_job(int *index) {
    for (job *j = jobs; j; j = j->after) {
        if (j->helpers >= threads_in_use() - 1) continue;
        *index = atomic_fetch_add(&j->next, 1);
        if (*index >= j->parts) continue;
        j->helpers++;
        return j;
    }
    return NULL;
}

/* Returns how many parts it computed. */
static int run_from(job *j, int index) {
    int done = 0;
    for (; index < j->parts; index = atomic_fetch_add(&j->next, 1), done++)
        j->part(j->context, index);
    return done;
}

static void *worker(void *unused) {
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        int index, seen = atomic_load(&posted);
        job *j = join_job(&index);
        if (!j) {
            pthread_mutex_unlock(&lock);
            if (now() > atomic_load(&paused_until)) changes(&posted, seen);
            pthread_mutex_lock(&lock);
            if (atomic_load(&posted) != seen) continue;
            idle++;
            pthread_cond_wait(&wake, &lock);
            idle--;
            continue;
        }
        pthread_mutex_unlock(&lock);
        run_from(j, index);
        pthread_mutex_lock(&lock);
        if (--j->helpers == 0) pthread_cond_signal(&j->finished);
    }
    return NULL;
}

/* Threads do not survive a fork, and one of them may have held the lock. */
static void forget_workers(void) {
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wake, NULL);
    jobs = NULL;
    workers = idle = 0;
}

static void at_fork(void) { pthread_atfork(NULL, NULL, forget_workers); }

static void start_workers(int wanted) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, at_fork);
    while (workers < wanted) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, NULL)) return;
        pthread_detach(thread);
        workers++;
    }
}

static void enter(job *j) {
    int wanted = threads_in_use() - 1;
    if (wanted > j->parts - 1) wanted = j->parts - 1;
    pthread_mutex_lock(&lock);
    start_workers(wanted);
    j->after = jobs;
    jobs = j;
    atomic_fetch_add(&posted, 1);
    int sleepers = idle < wanted ? idle : wanted;
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < sleepers; i++) pthread_cond_signal(&wake);
}

static void leave(job *j) {
    pthread_mutex_lock(&lock);
    job **link = &jobs;
    while (*link != j) link = &(*link)->after;
    *link = j->after;
    pthread_mutex_unlock(&lock);
    for (int left; (left = atomic_load(&j->helpers)) > 0 && changes(&j->helpers, left);) continue;
    pthread_mutex_lock(&lock); /* which a helper holds until it has let go of the job */
    while (j->helpers > 0) pthread_cond_wait(&j->finished, &lock);
    pthread_mutex_unlock(&lock);
}

/* After a job that took clearly longer than its caller alone would have needed, because a worker
 * lost its core to another process in the middle of a part, callers stay alone for a while: twice
 * as long each time. A short job may well take longer than that: its helper began late, and no
 * core is lost. Callers may overwrite each other's guess. */
static void judge(int64_t elapsed, int64_t alone) {
    int64_t last = atomic_load(&pause_time);
    if (elapsed <= alone + alone / 4 + LOST_CORE) {
        atomic_store(&pause_time, 0);
        return;
    }
    int64_t next = last == 0 ? SHORTEST_PAUSE : last < LONGEST_PAUSE ? 2 * last : last;
    atomic_store(&pause_time, next);
    atomic_store(&paused_until, now() + next);
}

void pool_run(int parts, void (*part)(void *, int), void *context) {
    job j = {.part = part, .context = context, .parts = parts,
             .finished = PTHREAD_COND_INITIALIZER};
    int64_t start = parts < 2 || threads_in_use() < 2 ? 0 : now();
    if (start <= atomic_load(&paused_until)) {
        run_from(&j, atomic_fetch_add(&j.next, 1));
        return;
    }
    enter(&j);
    int done = run_from(&j, atomic_fetch_add(&j.next, 1));
    int64_t own = now() - start;
    leave(&j);
    if (done > 0) judge(now() - start, own * parts / done);
}

/* The same for callers outside the library. */
EXPORT void dflash_pool_run(int parts, void (*part)(void *, int), void *context)
    __attribute__((alias("pool_run")));
