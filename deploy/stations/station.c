/* A station by libcurl and libcrypto: enrols its key, and gives a device its certificate. See README.md.
 *
 *     station enrol CODE_FILE
 *     station device PROFILE TARGET.pem ATTRIBUTE=VALUE...
 *
 * Every step may be run again: keys and requests stay in their files, so the service sees the same
 * request, and answers with the same certificate.
 *
 *     cc -O2 -Wall -Wextra -o station station.c -lcurl -lcrypto
 */
#define _GNU_SOURCE /* asprintf */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FAILURE = 1, USAGE = 2, REFUSED = 4, UNAVAILABLE = 5 };

static const char *url, *ca, *name, *dir;
static long patience; /* seconds for which a request is asked again */

__attribute__((noreturn, format(printf, 2, 3))) static void fail(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("station: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(code);
}

static void need(int good, const char *what) {
    if (!good) fail(FAILURE, "%s failed", what);
}

__attribute__((format(printf, 1, 2))) static char *text(const char *format, ...) {
    char *made;
    va_list arguments;
    va_start(arguments, format);
    need(vasprintf(&made, format, arguments) >= 0, "memory");
    va_end(arguments);
    return made;
}

static const char *setting(const char *variable, const char *otherwise) {
    const char *value = getenv(variable);
    if (value == NULL || *value == '\0') value = otherwise;
    if (value == NULL) fail(USAGE, "%s is not set", variable);
    return value;
}

/* Octets that grow, with a zero behind them. */
struct octets {
    char *at;
    size_t count;
};

static size_t append(char *from, size_t size, size_t count, void *to) {
    struct octets *octets = to;
    octets->at = realloc(octets->at, octets->count + size * count + 1);
    need(octets->at != NULL, "memory");
    memcpy(octets->at + octets->count, from, size * count);
    octets->count += size * count;
    octets->at[octets->count] = '\0';
    return size * count;
}

static void append_text(struct octets *to, const char *from) {
    append((char *)from, 1, strlen(from), to);
}

static struct octets read_file(const char *path) {
    struct octets content = {NULL, 0};
    char part[4096];
    size_t count;
    FILE *file = fopen(path, "rb");
    if (file == NULL) fail(FAILURE, "%s: %s", path, strerror(errno));
    append_text(&content, "");
    while ((count = fread(part, 1, sizeof part, file)) > 0) append(part, 1, count, &content);
    if (ferror(file)) fail(FAILURE, "%s cannot be read", path);
    fclose(file);
    return content;
}

/* A file that is there whole or not at all, also after a power cut; nobody else may read it. */
static void write_file(const char *path, const char *octets, size_t count) {
    char *new = text("%s.new", path), *copy = text("%s", path);
    int file, directory;
    size_t done = 0;
    unlink(new);
    file = open(new, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (file < 0) fail(FAILURE, "%s: %s", new, strerror(errno));
    while (done < count) {
        ssize_t wrote = write(file, octets + done, count - done);
        if (wrote < 0) fail(FAILURE, "%s: %s", new, strerror(errno));
        done += (size_t)wrote;
    }
    if (fsync(file) != 0 || close(file) != 0 || rename(new, path) != 0) fail(FAILURE, "%s: %s", path, strerror(errno));
    directory = open(dirname(copy), O_RDONLY | O_DIRECTORY);
    need(directory >= 0 && fsync(directory) == 0 && close(directory) == 0, "writing a directory");
    free(copy);
    free(new);
}

/* What OpenSSL wrote into memory, into a file. */
static void write_memory(const char *path, BIO *memory) {
    char *octets;
    long count = BIO_get_mem_data(memory, &octets);
    write_file(path, octets, (size_t)count);
    BIO_free(memory);
}

/* A P-256 key that nobody else may read, and a request for it without a subject, unless they are there. */
static EVP_PKEY *make_request(const char *key_path, const char *csr_path) {
    EVP_PKEY *key;
    X509_REQ *request;
    BIO *memory;
    FILE *file;
    if (access(key_path, F_OK) != 0) {
        need((key = EVP_EC_gen("P-256")) != NULL, "making a key");
        memory = BIO_new(BIO_s_secmem());
        need(memory && PEM_write_bio_PrivateKey(memory, key, NULL, NULL, 0, NULL, NULL), "writing a key");
        write_memory(key_path, memory);
        EVP_PKEY_free(key);
    }
    need((file = fopen(key_path, "r")) != NULL, key_path);
    need((key = PEM_read_PrivateKey(file, NULL, NULL, NULL)) != NULL, key_path);
    fclose(file);
    if (access(csr_path, F_OK) != 0) {
        request = X509_REQ_new();
        need(request && X509_REQ_set_version(request, X509_REQ_VERSION_1) && X509_REQ_set_pubkey(request, key) &&
                 X509_REQ_sign(request, key, EVP_sha256()),
             "making a request");
        memory = BIO_new(BIO_s_mem());
        need(memory && PEM_write_bio_X509_REQ(memory, request), "writing a request");
        write_memory(csr_path, memory);
        X509_REQ_free(request);
    }
    return key;
}

/* Twice as long each time, never shorter than the service asks for, and a part of it by chance, so that
 * a line does not come back all at once. */
static void pause_for(long seconds) {
    unsigned char chance[2];
    struct timespec time = {seconds, 0};
    need(RAND_bytes(chance, sizeof chance) == 1, "chance");
    time.tv_nsec = (chance[0] * 256L + chance[1]) * 15000L;
    nanosleep(&time, NULL);
}

/* One POST. Asked again when no answer came, or one that says when to come back. `headers` are freed. */
static struct octets post(const char *path, const struct octets *body, struct curl_slist *headers, int enrolled) {
    CURL *curl = curl_easy_init();
    char *address = text("%s%s", url, path), why[CURL_ERROR_SIZE];
    char *certificate = text("%s/%s.pem", dir, name), *key = text("%s/%s.key", dir, name);
    time_t give_up = time(NULL) + patience;
    long wait = 1, status;
    need(curl != NULL, "libcurl");
    curl_easy_setopt(curl, CURLOPT_URL, address);
    curl_easy_setopt(curl, CURLOPT_CAINFO, ca);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body->at);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)body->count);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 5L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 30L);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, append);
    if (enrolled) {
        curl_easy_setopt(curl, CURLOPT_SSLCERT, certificate);
        curl_easy_setopt(curl, CURLOPT_SSLKEY, key);
    }
    for (;;) {
        struct octets answer = {NULL, 0};
        curl_off_t after = 0;
        CURLcode code;
        append_text(&answer, "");
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
        code = curl_easy_perform(curl);
        switch (code) {
        case CURLE_OK:
            curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
            curl_easy_getinfo(curl, CURLINFO_RETRY_AFTER, &after);
            if (status == 200 || status == 201) {
                curl_easy_cleanup(curl);
                curl_slist_free_all(headers);
                free(address), free(certificate), free(key);
                return answer;
            }
            if (after == 0 && status != 408 && status != 429 && status != 502 && status != 503 && status != 504)
                fail(REFUSED, "refused: %ld: %s", status, answer.at);
            snprintf(why, sizeof why, "%ld: %.200s", status, answer.at);
            break;
        /* not found, not connected, cut off, too late: a service that restarts */
        case CURLE_COULDNT_RESOLVE_HOST: case CURLE_COULDNT_CONNECT: case CURLE_HTTP2: case CURLE_PARTIAL_FILE:
        case CURLE_OPERATION_TIMEDOUT: case CURLE_SSL_CONNECT_ERROR: case CURLE_GOT_NOTHING: case CURLE_SEND_ERROR:
        case CURLE_RECV_ERROR: case CURLE_HTTP2_STREAM:
            break;
        default:
            fail(FAILURE, "%s", why);
        }
        free(answer.at);
        if (after < wait) after = wait;
        if (time(NULL) + after > give_up) fail(UNAVAILABLE, "not served: %s", why);
        pause_for((long)after);
        wait = wait < 8 ? 2 * wait : 15;
    }
}

static struct curl_slist *header(struct curl_slist *headers, const char *line) {
    headers = curl_slist_append(headers, line);
    need(headers != NULL, "memory");
    return headers;
}

static void enrol(const char *code_file) {
    char *key = text("%s/%s.key", dir, name), *csr = text("%s/%s.csr", dir, name);
    char *path = text("/v1/stations/%s/enrolment", name), *certificate = text("%s/%s.pem", dir, name);
    struct octets code = read_file(code_file), request, answer;
    char *authorization;
    code.at[strspn(code.at, "0123456789abcdef")] = '\0';
    authorization = text("Authorization: Bearer %s", code.at);
    EVP_PKEY_free(make_request(key, csr));
    request = read_file(csr);
    answer = post(path, &request,
                  header(header(header(NULL, authorization), "Content-Type: application/pkcs10"),
                         "Accept: application/x-pem-file"),
                  0);
    OPENSSL_cleanse(authorization, strlen(authorization));
    write_file(certificate, answer.at, answer.count);
    sleep(2); /* within a second, the service knows the new key */
}

/* A JSON string: PEM, or what a person is to type, so line feeds are the only control characters. */
static void quote(struct octets *to, const char *from, size_t count) {
    append_text(to, "\"");
    for (; count > 0; from++, count--) {
        if (*from == '\n') {
            append_text(to, "\\n");
            continue;
        }
        if ((unsigned char)*from < 0x20) fail(USAGE, "a control character in an argument");
        if (*from == '"' || *from == '\\') append_text(to, "\\");
        append((char *)from, 1, 1, to);
    }
    append_text(to, "\"");
}

/* The body of the request; the same for the same device. */
static struct octets body_of(const char *profile, const char *csr_path, int count, char **attributes) {
    struct octets body = {NULL, 0}, csr = read_file(csr_path);
    const char *order = getenv("CERTFACTORY_ORDER");
    append_text(&body, "{\"profile\":");
    quote(&body, profile, strlen(profile));
    append_text(&body, ",\"csr\":");
    quote(&body, csr.at, csr.count);
    append_text(&body, ",\"subject\":{");
    for (int i = 0; i < count; i++) {
        const char *equals = strchr(attributes[i], '=');
        if (equals == NULL) fail(USAGE, "%s is not ATTRIBUTE=VALUE", attributes[i]);
        if (i > 0) append_text(&body, ",");
        quote(&body, attributes[i], (size_t)(equals - attributes[i]));
        append_text(&body, ":");
        quote(&body, equals + 1, strlen(equals + 1));
    }
    append_text(&body, "}");
    if (order != NULL && *order != '\0') {
        append_text(&body, ",\"order\":");
        quote(&body, order, strlen(order));
    }
    append_text(&body, "}");
    free(csr.at);
    return body;
}

/* The two places to change for a device that is not a file. */
static void write_device(const char *target, const struct octets *pem) { write_file(target, pem->at, pem->count); }
static struct octets read_device(const char *target) { return read_file(target); }

/* The certificate is for the device's key, and its chain verifies; returns its serial number. */
static char *verify(EVP_PKEY *key, const struct octets *pem) {
    BIO *memory = BIO_new_mem_buf(pem->at, (int)pem->count);
    X509 *leaf = PEM_read_bio_X509(memory, NULL, NULL, NULL), *other;
    STACK_OF(X509) *chain = sk_X509_new_null();
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    const char *anchor = getenv("CERTFACTORY_DEVICE_CA");
    BIGNUM *number;
    char *serial = NULL;
    need(leaf && chain && store && context, "reading the certificate");
    while ((other = PEM_read_bio_X509(memory, NULL, NULL, NULL)) != NULL) {
        sk_X509_push(chain, other);
        if (anchor == NULL || *anchor == '\0') X509_STORE_add_cert(store, other);
    }
    if (anchor != NULL && *anchor != '\0') need(X509_STORE_load_file(store, anchor), anchor);
    if (EVP_PKEY_eq(X509_get0_pubkey(leaf), key) != 1) fail(FAILURE, "the certificate is for another key");
    need(X509_STORE_CTX_init(context, store, leaf, chain), "verifying");
    X509_STORE_CTX_set_flags(context, X509_V_FLAG_PARTIAL_CHAIN);
    X509_STORE_CTX_set_purpose(context, X509_PURPOSE_SSL_CLIENT);
    if (X509_verify_cert(context) != 1)
        fail(FAILURE, "the certificate does not verify: %s",
             X509_verify_cert_error_string(X509_STORE_CTX_get_error(context)));
    number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(leaf), NULL);
    need(number && (serial = BN_bn2hex(number)) != NULL, "reading the serial number");
    for (char *at = serial; *at != '\0'; at++)
        if (*at >= 'A' && *at <= 'F') *at += 'a' - 'A';
    BN_free(number);
    X509_STORE_CTX_free(context);
    X509_STORE_free(store);
    sk_X509_pop_free(chain, X509_free);
    X509_free(leaf);
    BIO_free(memory);
    return serial;
}

static char *sibling(const char *target, const char *extension) {
    size_t length = strlen(target);
    if (length > 4 && strcmp(target + length - 4, ".pem") == 0) length -= 4;
    return text("%.*s%s", (int)length, target, extension);
}

static void device(const char *profile, const char *target, int count, char **attributes) {
    char *key_path = sibling(target, ".key"), *csr_path = sibling(target, ".csr"), *serial;
    EVP_PKEY *key = make_request(key_path, csr_path);
    struct octets body = body_of(profile, csr_path, count, attributes), issued, found;
    unsigned char digest[32];
    char idempotency[17 + 64 + 1] = "Idempotency-Key: ";
    need(EVP_Digest(body.at, body.count, digest, NULL, EVP_sha256(), NULL), "SHA-256");
    for (int i = 0; i < 32; i++) sprintf(idempotency + 17 + 2 * i, "%02x", digest[i]);
    issued = post("/v1/certificates", &body,
                  header(header(header(NULL, idempotency), "Content-Type: application/json"),
                         "Accept: application/x-pem-file"),
                  1);

    write_device(target, &issued);
    found = read_device(target);

    if (found.count != issued.count || memcmp(found.at, issued.at, found.count) != 0)
        fail(FAILURE, "%s does not hold what was written", target);
    serial = verify(key, &found);
    post(text("/v1/certificates/%s/confirmation", serial), &found,
         header(NULL, "Content-Type: application/x-pem-file"), 1);
    puts(serial);
}

int main(int count, char **arguments) {
    int enrols = count == 3 && strcmp(arguments[1], "enrol") == 0;
    if (!enrols && (count < 5 || strcmp(arguments[1], "device") != 0))
        fail(USAGE, "usage: station enrol CODE_FILE | station device PROFILE TARGET.pem ATTRIBUTE=VALUE...");
    url = setting("CERTFACTORY_URL", "https://127.0.0.1:8443");
    ca = setting("CERTFACTORY_CA", "/etc/certfactory/tls/ca.pem");
    name = setting("CERTFACTORY_STATION", NULL);
    dir = setting("CERTFACTORY_STATION_DIR", ".");
    patience = strtol(setting("CERTFACTORY_RETRY_SECONDS", "120"), NULL, 10);
    need(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK, "libcurl");
    if (enrols)
        enrol(arguments[2]);
    else
        device(arguments[2], arguments[3], count - 4, arguments + 4);
    return 0;
}
