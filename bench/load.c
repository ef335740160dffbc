/* The one load generator of the bench: plays a script of HTTP requests over keep-alive connections.
 *
 * It must cost far less than any server it measures. So the requests are written out beforehand by
 * load.py, file bodies leave by sendfile, answers are thrown away in the kernel (MSG_TRUNC), and a
 * thread runs its connections from one epoll. It checks every status and reads every body to its
 * end, by Content-Length or by chunks, and checks nothing more: identity of bytes is for the tests.
 *
 * load PORT CONNECTIONS THREADS SECONDS SCRIPT [FIELD]: each request carries the header FIELD,
 * "Name: value", where it is given; SECONDS 0 plays the script once; otherwise it goes
 * round until the time is over, or, where its first byte is '!', ends early when it is used up.
 *
 * A script is a row of steps, "GROUP STATUS METHOD TARGET TYPE LENGTH SOURCE\n": GROUP 1 opens a
 * group (what is timed, such as POST, PUT, PUT), a TARGET "@x" is the last Location with query x
 * added, SOURCE "-" means that LENGTH bytes follow, "file:OFFSET:PATH" that they lie in a file.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_ROOM = 8192, INPUT_ROOM = 65536, LOCATION_ROOM = 4096, DISCARD = 4 << 20, PATIENCE_MS = 300000 };
enum chunk_state { CHUNK_SIZE, CHUNK_DATA, CHUNK_END, CHUNK_TRAILER };

/* As clients send it: distribution answers 404 for a manifest whose type is not named. */
static const char accepted[] =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, */*";

struct step {
    bool opens_group;
    int status, file;
    const char *method, *target, *type, *body;
    off_t length, offset;
};

struct connection {
    int socket;
    bool waits_to_write, in_body, closes, chunked;
    size_t group, step;
    struct {
        char bytes[HEAD_ROOM];
        size_t length, sent;
        off_t body_sent;
    } out;
    size_t held;
    int status;
    off_t left;
    enum chunk_state chunk;
    size_t line;
    double begun;
    char location[LOCATION_ROOM], input[INPUT_ROOM + 1];
};

struct worker {
    pthread_t thread;
    int epoll;
    size_t first, count, groups_done, errors, room;
    off_t received, sent;
    double last;
    float *latencies;
    char first_error[512];
    struct connection *connections;
};

static struct step *steps;
static size_t *groups, group_count, connection_count;
static int port;
static bool goes_round;
static double deadline;
static const char *field = "";

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void fail(const char *words) {
    fprintf(stderr, "load: %s: %s\n", words, errno ? strerror(errno) : "failed");
    exit(1);
}

/* --- the script --- */

static const char *word(char **at, char end) {
    char *start = *at, *stop = strchr(start, end);
    if (!stop) errno = 0, fail("bad script line");
    *stop = 0;
    *at = stop + 1;
    return start;
}

static void read_step(struct step *step, char **at) {
    step->opens_group = *word(at, ' ') == '1';
    step->status = atoi(word(at, ' '));
    step->method = word(at, ' ');
    step->target = word(at, ' ');
    step->type = word(at, ' ');
    step->length = atoll(word(at, ' '));
    char *source = (char *)word(at, '\n');
    if (*source == '-') {
        step->body = *at;
        *at += step->length;
        return;
    }
    word(&source, ':');
    step->offset = atoll(word(&source, ':'));
    step->file = open(source, O_RDONLY | O_CLOEXEC);
    if (step->file < 0) fail(source);
}

static void read_script(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat facts;
    if (file < 0 || fstat(file, &facts)) fail(path);
    /* Private and writable: the words of a line are cut out in place. */
    char *at = mmap(NULL, (size_t)facts.st_size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (at == MAP_FAILED) fail("mmap");
    char *end = at + facts.st_size;
    goes_round = *at != '!';
    if (!goes_round) at++;
    size_t room = 0, count = 0;
    while (at < end) {
        if (count == room) {
            room = room ? room * 2 : 1024;
            steps = reallocarray(steps, room + 1, sizeof *steps);
            groups = reallocarray(groups, room + 1, sizeof *groups);
            if (!steps || !groups) fail("memory");
        }
        memset(&steps[count], 0, sizeof *steps);
        read_step(&steps[count], &at);
        if (steps[count].opens_group) groups[group_count++] = count;
        count++;
    }
    groups[group_count] = count;
}

/* --- sending --- */

static void watch(struct worker *worker, struct connection *c, bool write) {
    if (c->waits_to_write == write) return;
    c->waits_to_write = write;
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(worker->epoll, EPOLL_CTL_MOD, c->socket, &event)) fail("epoll_ctl");
}

static void dial(struct worker *worker, struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int yes = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->socket < 0 || connect(c->socket, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(c->socket, F_SETFL, O_NONBLOCK);
    c->waits_to_write = c->closes = false;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(worker->epoll, EPOLL_CTL_ADD, c->socket, &event)) fail("epoll_ctl");
}

static void write_head(struct connection *c) {
    const struct step *step = &steps[c->step];
    const char *target = step->target, *join = "", *query = "";
    if (*target == '@') {
        query = target + 1;
        target = c->location;
        join = strchr(target, '?') ? "&" : "?";
    }
    int length = snprintf(c->out.bytes, HEAD_ROOM,
                          "%s %s%s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: %s\r\n%s%s", step->method,
                          target, join, query, port, accepted, field, *field ? "\r\n" : "");
    if (strcmp(step->method, "GET") && length < HEAD_ROOM)
        length += snprintf(c->out.bytes + length, (size_t)(HEAD_ROOM - length), "Content-Length: %lld\r\n",
                           (long long)step->length);
    if (*step->type != '-' && length < HEAD_ROOM)
        length += snprintf(c->out.bytes + length, (size_t)(HEAD_ROOM - length), "Content-Type: %s\r\n", step->type);
    /* A short body rides in the same packet as its head, as real clients send it. */
    off_t rides = step->body && step->length + length + 2 < HEAD_ROOM ? step->length : 0;
    if (length + 2 >= HEAD_ROOM) errno = 0, fail("request head too long");
    memcpy(c->out.bytes + length, "\r\n", 2);
    if (rides) memcpy(c->out.bytes + length + 2, step->body, (size_t)rides);
    c->out.length = (size_t)length + 2 + (size_t)rides;
    c->out.sent = 0;
    c->out.body_sent = rides;
}

static bool sent_whole(const struct connection *c) {
    return c->out.sent == c->out.length && c->out.body_sent == steps[c->step].length;
}

/* False when the connection broke: what the server answered meanwhile is still read. */
static bool send_on(struct worker *worker, struct connection *c) {
    const struct step *step = &steps[c->step];
    while (!sent_whole(c)) {
        bool head = c->out.sent < c->out.length;
        off_t at = step->offset + c->out.body_sent;
        size_t rest = (size_t)(step->length - c->out.body_sent);
        ssize_t n = head         ? send(c->socket, c->out.bytes + c->out.sent, c->out.length - c->out.sent,
                                        MSG_NOSIGNAL | (rest ? MSG_MORE : 0))
                    : step->body ? send(c->socket, step->body + c->out.body_sent, rest, MSG_NOSIGNAL)
                                 : sendfile(c->socket, step->file, &at, rest);
        if (n < 0 && errno == EAGAIN) return watch(worker, c, true), true;
        if (n <= 0) return false;
        if (head) c->out.sent += (size_t)n;
        else c->out.body_sent += n;
    }
    watch(worker, c, false);
    return true;
}

/* --- the walk through the script --- */

static void start_step(struct worker *worker, struct connection *c) {
    c->in_body = c->chunked = false;
    c->held = 0;
    if (c->closes) close(c->socket), dial(worker, c);
    write_head(c);
    (void)send_on(worker, c); /* a broken connection shows as an end of file on the read */
}

/* False when nothing is left to do. Each connection walks its own groups, as a client would. */
static bool start_group(struct worker *worker, struct connection *c) {
    if (c->group >= group_count && goes_round && deadline > 0) c->group %= group_count;
    c->begun = now();
    if (c->group >= group_count || (deadline > 0 && c->begun >= deadline)) {
        close(c->socket);
        return false;
    }
    c->step = groups[c->group];
    start_step(worker, c);
    return true;
}

static bool end_group(struct worker *worker, struct connection *c, bool good) {
    double at = now();
    if (good) {
        if (worker->groups_done == worker->room) {
            worker->room = worker->room ? worker->room * 2 : 4096;
            worker->latencies = reallocarray(worker->latencies, worker->room, sizeof *worker->latencies);
            if (!worker->latencies) fail("memory");
        }
        worker->latencies[worker->groups_done++] = (float)(at - c->begun);
    } else {
        worker->errors++;
    }
    worker->last = at;
    c->group += connection_count;
    return start_group(worker, c);
}

static bool refuse(struct worker *worker, struct connection *c, const char *words) {
    if (!worker->errors)
        snprintf(worker->first_error, sizeof worker->first_error, "%s %.60s: %s (%d, awaited %d) %.160s",
                 steps[c->step].method, steps[c->step].target, words, c->status, steps[c->step].status,
                 c->input);
    c->closes = true;
    return end_group(worker, c, false);
}

static bool end_answer(struct worker *worker, struct connection *c) {
    if (c->status != steps[c->step].status) return refuse(worker, c, "status");
    if (!sent_whole(c)) return refuse(worker, c, "answered before the body was sent");
    worker->sent += steps[c->step].length;
    if (c->step + 1 == groups[c->group + 1]) return end_group(worker, c, true);
    c->step++;
    start_step(worker, c);
    return true;
}

/* --- reading --- */

static const char *header(const char *head, const char *name) {
    const char *found = strcasestr(head, name);
    return found ? found + strlen(name) + strspn(found + strlen(name), " ") : NULL;
}

static void read_head(struct connection *c) {
    const char *value;
    c->status = atoi(c->input + 9);
    if ((value = header(c->input, "\r\nLocation:"))) {
        if (!strncasecmp(value, "http://", 7)) value += 7, value += strcspn(value, "/");
        size_t length = strcspn(value, "\r");
        if (length >= LOCATION_ROOM) errno = 0, fail("Location too long");
        memcpy(c->location, value, length);
        c->location[length] = 0;
    }
    value = header(c->input, "\r\nConnection:");
    c->closes = value && !strncasecmp(value, "close", 5);
    c->chunked = header(c->input, "\r\nTransfer-Encoding:") != NULL;
    c->chunk = CHUNK_SIZE;
    c->line = 0;
    value = header(c->input, "\r\nContent-Length:");
    c->left = value && !c->chunked ? atoll(value) : 0;
}

/* True when the last chunk and its trailer have gone by. */
static bool chunks_end(struct connection *c, const char *bytes, size_t count) {
    for (const char *end = bytes + count; bytes < end; bytes++) {
        if (c->chunk == CHUNK_DATA) {
            off_t take = end - bytes < c->left ? end - bytes : c->left;
            c->left -= take;
            bytes += take - 1;
            if (!c->left) c->chunk = CHUNK_END;
        } else if (*bytes == '\n') {
            if (c->chunk == CHUNK_TRAILER && !c->line) return true;
            c->chunk = c->chunk == CHUNK_END                  ? CHUNK_SIZE
                       : c->chunk == CHUNK_TRAILER || !c->left ? CHUNK_TRAILER
                                                               : CHUNK_DATA;
            c->line = 0;
        } else if (*bytes != '\r') {
            int digit = *bytes <= '9' ? *bytes - '0' : (*bytes | 32) - 'a' + 10;
            if (c->chunk == CHUNK_SIZE) c->left = c->left * 16 + digit;
            c->line++;
        }
    }
    return false;
}

/* True when the answer is whole; `bytes` are body bytes just read. */
static bool body_ends(struct connection *c, const char *bytes, size_t count) {
    if (c->chunked) return chunks_end(c, bytes, count);
    c->left -= (off_t)count;
    return c->left <= 0;
}

static bool read_on(struct worker *worker, struct connection *c) {
    /* A long body is dropped unread by the kernel: MSG_TRUNC on TCP (tcp(7)). */
    bool drops = c->in_body && !c->chunked;
    size_t from = c->in_body ? 0 : c->held;
    size_t most = drops ? (size_t)(c->left < DISCARD ? c->left : DISCARD) : INPUT_ROOM - from;
    ssize_t n = recv(c->socket, c->input + from, most, drops ? MSG_TRUNC : 0);
    if (n < 0 && errno == EAGAIN) return true;
    if (n <= 0) return refuse(worker, c, n ? strerror(errno) : "connection ended early");
    worker->received += n;
    if (c->in_body) return body_ends(c, c->input, (size_t)n) ? end_answer(worker, c) : true;
    c->held += (size_t)n;
    c->input[c->held] = 0;
    char *end = strstr(c->input, "\r\n\r\n");
    if (!end) return c->held < INPUT_ROOM ? true : refuse(worker, c, "answer head too long");
    end[2] = 0; /* header() must not look into the body */
    read_head(c);
    c->in_body = true;
    return body_ends(c, end + 4, c->held - (size_t)(end + 4 - c->input)) ? end_answer(worker, c) : true;
}

/* --- the run --- */

static void *work(void *argument) {
    struct worker *worker = argument;
    struct epoll_event events[64];
    size_t alive = 0;
    for (size_t i = 0; i < worker->count; i++) {
        worker->connections[i].group = worker->first + i;
        dial(worker, &worker->connections[i]);
        alive += start_group(worker, &worker->connections[i]);
    }
    while (alive) {
        int count = epoll_wait(worker->epoll, events, 64, PATIENCE_MS);
        if (!count) errno = ETIMEDOUT;
        if (count <= 0 && errno != EINTR) fail("awaiting an answer");
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) (void)send_on(worker, c);
            if (events[i].events & ~(uint32_t)EPOLLOUT) alive -= !read_on(worker, c);
        }
    }
    return NULL;
}

static int by_value(const void *a, const void *b) {
    float left = *(const float *)a, right = *(const float *)b;
    return (left > right) - (left < right);
}

static void report(struct worker *workers, size_t count, double begun) {
    struct worker all = {.last = begun};
    for (size_t i = 0; i < count; i++) {
        struct worker *one = &workers[i];
        all.latencies = reallocarray(all.latencies, all.groups_done + one->groups_done + 1, sizeof(float));
        if (!all.latencies) fail("memory");
        if (one->groups_done)
            memcpy(all.latencies + all.groups_done, one->latencies, one->groups_done * sizeof(float));
        all.groups_done += one->groups_done;
        all.errors += one->errors;
        all.received += one->received;
        all.sent += one->sent;
        if (one->last > all.last) all.last = one->last;
        if (*one->first_error) fprintf(stderr, "%s\n", one->first_error);
    }
    qsort(all.latencies, all.groups_done, sizeof(float), by_value);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    float middle = all.groups_done ? all.latencies[all.groups_done / 2] : 0;
    float most = all.groups_done ? all.latencies[all.groups_done * 95 / 100] : 0;
    float high = all.groups_done ? all.latencies[all.groups_done * 99 / 100] : 0;
    printf("{\"groups\": %zu, \"errors\": %zu, \"seconds\": %.6f, \"received\": %lld, \"sent\": %lld, "
           "\"p50_ms\": %.4f, \"p95_ms\": %.4f, \"p99_ms\": %.4f, \"load_cpu_seconds\": %.3f}\n",
           all.groups_done, all.errors, all.last - begun, (long long)all.received, (long long)all.sent,
           (double)middle * 1e3, (double)most * 1e3, (double)high * 1e3, cpu);
}

int main(int count, char **words) {
    if (count != 6 && count != 7) {
        fprintf(stderr, "usage: load PORT CONNECTIONS THREADS SECONDS SCRIPT [FIELD]\n");
        return 2;
    }
    port = atoi(words[1]);
    connection_count = (size_t)atoll(words[2]);
    size_t threads = (size_t)atoll(words[3]);
    read_script(words[5]);
    if (count == 7) field = words[6];
    if (threads > connection_count) threads = connection_count;
    struct worker *workers = calloc(threads, sizeof *workers);
    double begun = now(), seconds = atof(words[4]);
    deadline = seconds > 0 ? begun + seconds : 0;
    for (size_t i = 0, first = 0; i < threads; i++) {
        struct worker *worker = &workers[i];
        worker->first = first;
        worker->count = connection_count / threads + (i < connection_count % threads);
        worker->connections = calloc(worker->count, sizeof *worker->connections);
        worker->epoll = epoll_create1(EPOLL_CLOEXEC);
        worker->last = begun;
        if (!worker->connections || worker->epoll < 0) fail("start");
        first += worker->count;
        if (pthread_create(&worker->thread, NULL, work, worker)) fail("thread");
    }
    for (size_t i = 0; i < threads; i++) pthread_join(workers[i].thread, NULL);
    report(workers, threads, begun);
    return 0;
}
