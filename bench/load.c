/* A lean load for anything that speaks RocketMQ's remoting protocol: one process, epoll, a few
 * connections, a fixed number of requests in flight, every answer checked.
 *
 *   load HOST PORT TOPIC MODE [key=value ...]
 *
 * MODE   send   SEND_MESSAGE_V2 (310) to the queues in turn; no other writer may use the topic
 *        pull   PULL_MESSAGE (11) walking the queues, back to the start at their end
 *        echo   the frames of send, against a server whose answers only repeat the opaque
 * keys   inflight=256 connections=4 body=128 batch=32 queues=4 warmup=1 seconds=3 count=0 settle=0.2 pid=0
 *        inflight is a multiple of connections; warmup, seconds, settle in seconds (fractions
 *        allowed); count > 0 ends a phase early, after that many messages; batch is the messages asked
 *        for by one pull; pid is the process whose CPU time is read around the measured phase, each time
 *        `settle` after the last answer, so that work a broker puts off is counted.
 *
 * Prints one line of JSON. Exit status: 0 all answers were right, 1 some were not, 2 no run.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FRAME_MAX = 16777216, HEADER_MAX = 1024, IN_START = 1 << 20, QUEUES_MAX = 64, PATIENCE_S = 10 };
enum { RECORD_MAGIC = 0xdaa320a7, RECORD_QUEUE_ID = 12, RECORD_QUEUE_OFFSET = 20, RECORD_MIN = 91 };
enum mode { SEND, PULL, ECHO };

struct conn {
    int fd;
    bool wants_out;
    char *in, *out;
    size_t in_len, in_cap, out_pos, out_len, out_cap;
};

struct slot { /* one request in flight, again and again */
    struct conn *conn;
    int64_t sent_ns, offset; /* offset: where this slot's next pull reads */
    int32_t opaque;          /* of the request under way; -1: none */
    int queue;
    bool placed; /* pull: the first answer has told how long the queue is, and the slot took its own part */
};

static struct { /* the command line */
    const char *host, *topic;
    int port, inflight, connections, body, batch, queues, pid;
    double warmup_s, seconds, settle_s;
    int64_t count;
    enum mode mode;
} opt = {.inflight = 256, .connections = 4, .body = 128, .batch = 32, .queues = 4, .warmup_s = 1, .seconds = 3, .settle_s = 0.2};

static struct conn *conns;
static struct slot *slots;
static char *body;
static int poller, busy;
static int32_t next_opaque;
static int64_t issued, answered, messages, errors, bytes_in, start_ms;
static char first_error[512];
static struct { int64_t count, low, high; } seen[QUEUES_MAX]; /* queue offsets that sends were answered with */

/* Latencies in ns: 64 linear steps in each power of two, so a value is known to 1.6 %. */
static uint64_t histogram[64 * 64];

static int64_t clock_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "giving up");
    exit(2);
}

__attribute__((format(printf, 1, 2))) static void wrong(const char *format, ...)
{
    va_list args;
    if (errors++)
        return;
    va_start(args, format);
    vsnprintf(first_error, sizeof first_error, format, args);
    va_end(args);
    for (char *c = first_error; *c; c++) /* it is printed inside a JSON string */
        if (*c == '"' || *c == '\\' || *c < ' ' || *c > '~')
            *c = '\'';
}

static void record_latency(int64_t ns)
{
    uint64_t v = ns < 1 ? 1 : (uint64_t)ns;
    int shift = 63 - __builtin_clzll(v) - 6;
    if (shift < 0)
        shift = 0;
    histogram[(size_t)shift * 64 + (v >> shift)]++;
}

static double latency_us(double quantile)
{
    uint64_t total = 0, sum = 0;
    for (size_t i = 0; i < sizeof histogram / sizeof *histogram; i++)
        total += histogram[i];
    for (size_t i = 0; i < sizeof histogram / sizeof *histogram; i++)
        if ((sum += histogram[i]) && (double)sum >= quantile * (double)total) {
            int shift = i < 128 ? 0 : (int)(i / 64) - 1;
            return (double)((i - (size_t)shift * 64) << shift) / 1000.0;
        }
    return 0;
}

/* ---- frames out ---- */

static char *put(char *at, const char *text)
{
    size_t n = strlen(text);
    memcpy(at, text, n);
    return at + n;
}

static char *put_int(char *at, int64_t value)
{
    char digits[20];
    int n = 0;
    do
        digits[n++] = (char)('0' + value % 10);
    while (value /= 10);
    while (n)
        *at++ = digits[--n];
    return at;
}

static char *put_hex(char *at, uint64_t value, int width)
{
    for (int i = width - 1; i >= 0; i--)
        *at++ = "0123456789ABCDEF"[value >> (4 * i) & 15];
    return at;
}

/* As Java's client makes it: address, process, class loader, milliseconds since its start, counter. */
static char *put_unique_key(char *at, int64_t now_ms, int64_t number)
{
    at = put(at, "7F00000130394E25154F");
    at = put_hex(at, (uint64_t)(now_ms - start_ms), 8);
    return put_hex(at, (uint64_t)number, 4);
}

static char *put_send_header(char *at, struct slot *slot)
{
    int64_t now_ms = clock_ns(CLOCK_REALTIME_COARSE) / 1000000;
    at = put(at, "{\"code\":310,\"extFields\":{\"a\":\"bench_producer\",\"b\":\"");
    at = put(at, opt.topic);
    at = put(at, "\",\"c\":\"TBW102\",\"d\":\"");
    at = put_int(at, opt.queues);
    at = put(at, "\",\"e\":\"");
    at = put_int(at, slot->queue);
    at = put(at, "\",\"f\":\"0\",\"g\":\"");
    at = put_int(at, now_ms);
    at = put(at, "\",\"h\":\"0\",\"i\":\"KEYS\\u0001order-");
    at = put_int(at, issued);
    at = put(at, "\\u0002UNIQ_KEY\\u0001");
    at = put_unique_key(at, now_ms, issued);
    at = put(at, "\\u0002WAIT\\u0001true\\u0002TAGS\\u0001TagA\",\"j\":\"0\",\"k\":\"false\",\"m\":\"false\"},\"flag\":0,\"language\":\"JAVA\",\"opaque\":");
    at = put_int(at, slot->opaque);
    return put(at, ",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":401}");
}

static char *put_pull_header(char *at, struct slot *slot)
{
    at = put(at, "{\"code\":11,\"extFields\":{\"queueId\":\"");
    at = put_int(at, slot->queue);
    at = put(at, "\",\"maxMsgNums\":\"");
    at = put_int(at, opt.batch);
    at = put(at, "\",\"sysFlag\":\"4\",\"suspendTimeoutMillis\":\"0\",\"commitOffset\":\"0\",\"topic\":\"");
    at = put(at, opt.topic);
    at = put(at, "\",\"queueOffset\":\"");
    at = put_int(at, slot->offset);
    at = put(at, "\",\"expressionType\":\"TAG\",\"subscription\":\"*\",\"subVersion\":\"0\",\"consumerGroup\":\"bench_consumer\"},\"flag\":0,\"language\":\"JAVA\",\"opaque\":");
    at = put_int(at, slot->opaque);
    return put(at, ",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":401}");
}

/* Writes the slot's next request behind what waits in its connection; flush() sends it. */
static void ask(struct slot *slot, int64_t now_ns)
{
    struct conn *conn = slot->conn;
    if (conn->out_pos) {
        memmove(conn->out, conn->out + conn->out_pos, conn->out_len -= conn->out_pos);
        conn->out_pos = 0;
    }
    slot->opaque = next_opaque++ & INT32_MAX;
    slot->sent_ns = now_ns;
    if (opt.mode != PULL)
        slot->queue = (int)(issued % opt.queues);

    char *frame = conn->out + conn->out_len, *header = frame + 8, *at;
    at = opt.mode == PULL ? put_pull_header(header, slot) : put_send_header(header, slot);
    uint32_t header_length = htonl((uint32_t)(at - header)); /* top byte 0: a JSON header */
    if (opt.mode != PULL) {
        memcpy(at, body, (size_t)opt.body);
        at += opt.body;
    }
    uint32_t length = htonl((uint32_t)(at - frame) - 4);
    memcpy(frame, &length, 4);
    memcpy(frame + 4, &header_length, 4);
    conn->out_len += (size_t)(at - frame);
    issued++;
}

static void flush(struct conn *conn)
{
    while (conn->out_pos < conn->out_len) {
        ssize_t n = send(conn->fd, conn->out + conn->out_pos, conn->out_len - conn->out_pos, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            die("send");
        conn->out_pos += (size_t)n;
    }
    bool wants_out = conn->out_pos < conn->out_len;
    if (wants_out != conn->wants_out) {
        struct epoll_event event = {.events = EPOLLIN | (wants_out ? EPOLLOUT : 0), .data.ptr = conn};
        epoll_ctl(poller, EPOLL_CTL_MOD, conn->fd, &event);
        conn->wants_out = wants_out;
    }
}

/* ---- answers ---- */

static uint32_t be32(const char *at)
{
    uint32_t v;
    memcpy(&v, at, 4);
    return ntohl(v);
}

static int64_t be64(const char *at) { return (int64_t)((uint64_t)be32(at) << 32 | be32(at + 4)); }

/* The number of a member `"name":12` or `"name":"12"`, in whatever order the server writes; -1 without. */
static int64_t member(const char *header, size_t length, const char *name)
{
    const char *end = header + length, *at = memmem(header, length, name, strlen(name));
    if (!at)
        return -1;
    at += strlen(name);
    while (at < end && (*at == ' ' || *at == '"'))
        at++;
    if (at == end || *at < '0' || *at > '9')
        return -1;
    int64_t value = 0;
    while (at < end && *at >= '0' && *at <= '9')
        value = value * 10 + (*at++ - '0');
    return value;
}

static struct slot *slot_of(int64_t opaque, struct conn *conn)
{
    /* Slots of a connection are answered nearly in order, so the search is short. */
    static size_t *hint;
    if (!hint)
        hint = calloc((size_t)opt.connections, sizeof *hint);
    size_t c = (size_t)(conn - conns), lane = (size_t)(opt.inflight / opt.connections);
    for (size_t i = 0; i < lane; i++) {
        struct slot *slot = slots + c * lane + (hint[c] + i) % lane;
        if (slot->opaque == opaque) {
            hint[c] = (hint[c] + i + 1) % lane;
            return slot;
        }
    }
    return NULL;
}

static void check_send(struct slot *slot, const char *header, size_t length)
{
    int64_t queue = member(header, length, "\"queueId\":"), offset = member(header, length, "\"queueOffset\":");
    messages++;
    if (queue != slot->queue || offset < 0) {
        wrong("sent to queue %d, answered queue %lld offset %lld", slot->queue, (long long)queue, (long long)offset);
        return;
    }
    if (!seen[queue].count++)
        seen[queue].low = seen[queue].high = offset;
    if (offset < seen[queue].low)
        seen[queue].low = offset;
    if (offset > seen[queue].high)
        seen[queue].high = offset;
}

/* Each record must be of the queue asked for and follow the one before; the slot then stands behind them. */
static void check_pull(struct slot *slot, const char *header, size_t length, const char *at, size_t size)
{
    int64_t next = member(header, length, "\"nextBeginOffset\":"), last = member(header, length, "\"maxOffset\":");
    int64_t first = member(header, length, "\"minOffset\":"), expected = slot->offset;
    if (next < 0 || last < 0 || first < 0) {
        wrong("a pull answer without its offsets");
        return;
    }
    while (size) {
        size_t record = size < RECORD_MIN ? 0 : be32(at);
        if (record < RECORD_MIN || record > size || be32(at + 4) != RECORD_MAGIC) {
            wrong("broken record behind offset %lld of queue %d", (long long)expected, slot->queue);
            break;
        }
        if (be32(at + RECORD_QUEUE_ID) != (uint32_t)slot->queue || be64(at + RECORD_QUEUE_OFFSET) != expected) {
            wrong("asked for queue %d offset %lld, got another record", slot->queue, (long long)expected);
            break;
        }
        expected++;
        messages++;
        at += record;
        size -= record;
    }
    if (next != expected)
        wrong("nextBeginOffset %lld behind offset %lld", (long long)next, (long long)expected);
    if (!slot->placed) {
        slot->placed = true;
        next = first + (int64_t)((double)(last - first) * (double)(slot - slots) / opt.inflight);
    }
    slot->offset = next + opt.batch <= last ? next : first;
}

/* Judges one answer and, if it is to go on, asks again in its slot. */
static void check(struct conn *conn, const char *frame, size_t size, int64_t now_ns, bool go_on)
{
    uint32_t word = be32(frame + 4);
    size_t length = word & 0xffffff;
    const char *header = frame + 8;
    if (word >> 24 || length > size - 8) {
        wrong("answer with header word %08x in %zu bytes", word, size);
        return;
    }
    int64_t opaque = member(header, length, "\"opaque\":"), code = member(header, length, "\"code\":");
    struct slot *slot = slot_of(opaque, conn);
    if (!slot) {
        wrong("answer with opaque %lld, which nobody waits for", (long long)opaque);
        return;
    }
    slot->opaque = -1;
    record_latency(now_ns - slot->sent_ns);
    answered++;
    if (code != 0 || !(member(header, length, "\"flag\":") & 1))
        wrong("%.*s", (int)(length > 400 ? 400 : length), header);
    else if (opt.mode == SEND)
        check_send(slot, header, length);
    else if (opt.mode == PULL)
        check_pull(slot, header, length, header + length, size - 8 - length);
    else
        messages++;
    if (go_on)
        ask(slot, now_ns);
    else
        busy--;
}

/* One read, all whole frames in it, then one write of what they made us ask. */
static void receive(struct conn *conn, int64_t until_ns, int64_t until_messages)
{
    ssize_t n = recv(conn->fd, conn->in + conn->in_len, conn->in_cap - conn->in_len, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0)
        die(n ? "recv" : "the server closed the connection");
    bytes_in += n;
    conn->in_len += (size_t)n;
    int64_t now_ns = clock_ns(CLOCK_MONOTONIC);
    size_t at = 0;
    while (conn->in_len - at >= 8) {
        size_t size = (size_t)be32(conn->in + at) + 4;
        if (size < 8 || size > FRAME_MAX) {
            fprintf(stderr, "load: answer of %zu bytes\n", size);
            exit(2);
        }
        if (size > conn->in_len - at) {
            if (size > conn->in_cap && !(conn->in = realloc(conn->in, conn->in_cap = size + IN_START)))
                die("memory");
            break;
        }
        check(conn, conn->in + at, size, now_ns, now_ns < until_ns && (!until_messages || messages < until_messages));
        at += size;
    }
    memmove(conn->in, conn->in + at, conn->in_len -= at);
    flush(conn);
}

/* ---- the run ---- */

/* Keeps `inflight` requests under way until the time or the count is reached, then waits for the last
 * answer. Gives the seconds from the first request to the last answer. */
static double run(double seconds)
{
    struct epoll_event events[64];
    int64_t begin = clock_ns(CLOCK_MONOTONIC), last = begin;
    int64_t until_ns = begin + (int64_t)(seconds * 1e9), until_messages = opt.count ? messages + opt.count : 0;
    for (int i = 0; i < opt.inflight; i++, busy++)
        ask(slots + i, begin);
    for (int i = 0; i < opt.connections; i++)
        flush(conns + i);
    while (busy > 0) {
        int n = epoll_wait(poller, events, 64, 1000);
        int64_t now = clock_ns(CLOCK_MONOTONIC);
        if (n > 0)
            last = now;
        else if (now - last > PATIENCE_S * 1000000000LL) {
            fprintf(stderr, "load: %d requests without an answer for %d s\n", busy, PATIENCE_S);
            exit(2);
        }
        for (int i = 0; i < n; i++) {
            if (events[i].events & EPOLLOUT)
                flush(events[i].data.ptr);
            if (events[i].events & ~(uint32_t)EPOLLOUT)
                receive(events[i].data.ptr, until_ns, until_messages);
        }
    }
    double took = (double)(clock_ns(CLOCK_MONOTONIC) - begin) / 1e9;
    usleep((useconds_t)(opt.settle_s * 1e6));
    return took;
}

/* User and system time of all threads of `pid`, seconds, to 10 ms; 0 for no pid. */
static double cpu_seconds_of(int pid)
{
    char path[64], text[1024];
    unsigned long user, system;
    if (!pid)
        return 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        die(path);
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = 0;
    char *fields = strrchr(text, ')'); /* the command's name may hold blanks */
    if (!fields || sscanf(fields + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        die(path);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double own_cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void connect_all(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    int lane = opt.inflight / opt.connections, yes = 1;
    if (inet_pton(AF_INET, opt.host, &address.sin_addr) != 1)
        die("HOST must be an IPv4 address");
    poller = epoll_create1(0);
    conns = calloc((size_t)opt.connections, sizeof *conns);
    slots = calloc((size_t)opt.inflight, sizeof *slots);
    for (int i = 0; i < opt.connections; i++) {
        struct conn *conn = conns + i;
        conn->in = malloc(conn->in_cap = IN_START);
        conn->out = malloc(conn->out_cap = (size_t)lane * (size_t)(8 + HEADER_MAX + opt.body));
        conn->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(conn->fd, (struct sockaddr *)&address, sizeof address))
            die("connect");
        setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        int flags = 1;
        if (ioctl(conn->fd, FIONBIO, &flags))
            die("ioctl");
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
        epoll_ctl(poller, EPOLL_CTL_ADD, conn->fd, &event);
    }
    for (int i = 0; i < opt.inflight; i++)
        slots[i] = (struct slot){.conn = conns + i / lane, .opaque = -1, .queue = i % opt.queues};
}

static void read_options(int argc, char **argv)
{
    static const char *const modes[] = {"send", "pull", "echo"};
    if (argc < 5) {
        fprintf(stderr, "usage: load HOST PORT TOPIC send|pull|echo [key=value ...]\n");
        exit(2);
    }
    opt.host = argv[1];
    opt.port = atoi(argv[2]);
    opt.topic = argv[3];
    int mode = 0;
    while (mode < 3 && strcmp(argv[4], modes[mode]))
        mode++;
    bool known = mode < 3;
    opt.mode = (enum mode)mode;
    const struct { const char *name; int *number; double *fraction; int64_t *big; } keys[] = {
        {"inflight", &opt.inflight, NULL, NULL}, {"connections", &opt.connections, NULL, NULL},
        {"body", &opt.body, NULL, NULL},         {"batch", &opt.batch, NULL, NULL},
        {"queues", &opt.queues, NULL, NULL},     {"pid", &opt.pid, NULL, NULL},
        {"warmup", NULL, &opt.warmup_s, NULL},   {"seconds", NULL, &opt.seconds, NULL},
        {"settle", NULL, &opt.settle_s, NULL},   {"count", NULL, NULL, &opt.count},
    };
    for (int i = 5; i < argc && known; i++) {
        char *value = strchr(argv[i], '=');
        known = false;
        for (size_t k = 0; value && k < sizeof keys / sizeof *keys; k++)
            if (strlen(keys[k].name) == (size_t)(value - argv[i]) && !strncmp(argv[i], keys[k].name, (size_t)(value - argv[i]))) {
                known = true;
                if (keys[k].number)
                    *keys[k].number = atoi(value + 1);
                else if (keys[k].fraction)
                    *keys[k].fraction = atof(value + 1);
                else
                    *keys[k].big = atoll(value + 1);
            }
        if (!known)
            fprintf(stderr, "load: what is %s?\n", argv[i]);
    }
    if (opt.connections > opt.inflight)
        opt.connections = opt.inflight;
    if (!known || opt.connections < 1 || opt.inflight % opt.connections || opt.queues < 1 || opt.queues > QUEUES_MAX || opt.body < 0 || opt.body > 1 << 22 ||
        opt.batch < 1 || strlen(opt.topic) > 127 || opt.seconds > 600) {
        fprintf(stderr, "load: bad options\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    body = malloc((size_t)opt.body + 1);
    for (int i = 0; i < opt.body; i++)
        body[i] = (char)('a' + i * 7 % 26);
    start_ms = clock_ns(CLOCK_REALTIME) / 1000000;
    connect_all();
    if (opt.warmup_s > 0)
        run(opt.warmup_s);

    memset(histogram, 0, sizeof histogram);
    int64_t warm_messages = messages, warm_answers = answered, warm_bytes = bytes_in;
    double cpu = cpu_seconds_of(opt.pid), own_cpu = own_cpu_seconds();
    double seconds = run(opt.seconds);
    cpu = cpu_seconds_of(opt.pid) - cpu;
    own_cpu = own_cpu_seconds() - own_cpu;

    int64_t done = messages - warm_messages, requests = answered - warm_answers;
    for (int q = 0; q < opt.queues; q++)
        if (seen[q].count && seen[q].high - seen[q].low + 1 != seen[q].count)
            wrong("queue %d: %lld sends got offsets %lld to %lld", q, (long long)seen[q].count, (long long)seen[q].low, (long long)seen[q].high);
    printf("{\"mode\":\"%s\",\"messages\":%lld,\"requests\":%lld,\"seconds\":%.4f,\"rate\":%.1f,\"errors\":%lld,\"first_error\":\"%s\","
           "\"bytes_in\":%lld,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f,"
           "\"cpu_seconds\":%.2f,\"cpu_us_per_message\":%.3f,\"load_cpu_seconds\":%.2f}\n",
           argv[4], (long long)done, (long long)requests, seconds, (double)done / seconds, (long long)errors, first_error,
           (long long)(bytes_in - warm_bytes), latency_us(0.5), latency_us(0.9), latency_us(0.99), latency_us(0.999), latency_us(1), cpu,
           done ? cpu * 1e6 / (double)done : 0, own_cpu);
    return errors || !done ? 1 : 0;
}
