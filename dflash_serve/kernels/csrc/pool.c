/* Worker threads that sleep on a condition variable; none exists until a matmul asks for them. */
#include "blas.h"

#include <pthread.h>

#define MOST_WORKERS 63

static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER; /* held by the caller using the pool */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* guards all below */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static pthread_cond_t finished = PTHREAD_COND_INITIALIZER;
static int workers, parts_taken, parts_wanted, parts_running;
static void (*work)(void *, int);
static void *work_context;

/* Called with `lock` held; drops it while a part runs. */
static void run_waiting_parts(void) {
    while (parts_taken < parts_wanted) {
        int index = parts_taken++;
        parts_running++;
        pthread_mutex_unlock(&lock);
        work(work_context, index);
        pthread_mutex_lock(&lock);
        parts_running--;
    }
}

static void *worker(void *unused) {
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        run_waiting_parts();
        if (parts_running == 0) pthread_cond_signal(&finished);
        pthread_cond_wait(&wake, &lock);
    }
    return NULL;
}

/* Threads do not survive a fork, and a lock may have been held by one of them. */
static void forget_workers(void) {
    pthread_mutex_init(&owner, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wake, NULL);
    pthread_cond_init(&finished, NULL);
    workers = parts_taken = parts_wanted = parts_running = 0;
}

static void at_fork(void) { pthread_atfork(NULL, NULL, forget_workers); }

static void start_workers(int wanted) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, at_fork);
    while (workers < wanted && workers < MOST_WORKERS) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, NULL)) return;
        pthread_detach(thread);
        workers++;
    }
}

void pool_run(int parts, void (*part)(void *, int), void *context) {
    if (pthread_mutex_trylock(&owner)) {
        for (int i = 0; i < parts; i++) part(context, i);
        return;
    }
    pthread_mutex_lock(&lock);
    start_workers(parts - 1);
    work = part;
    work_context = context;
    parts_taken = 0;
    parts_wanted = parts;
    pthread_cond_broadcast(&wake);
    run_waiting_parts();
    while (parts_running > 0) pthread_cond_wait(&finished, &lock);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&owner);
}
