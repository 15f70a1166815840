/* A meter that knows what became of each of its readings; with libmosquitto 2.
 *
 *     cc device_mosquitto.c -lmosquitto -o meter && ./meter METER-001 localhost 1883 3
 *
 * measures three times and sends each reading, always the same bytes, until its receipt has come. A real device keeps
 * what has no receipt where it outlives a loss of power. docs/devices.md says what a receipt promises. */

#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RECEIPT_SECONDS = 5 }; /* no receipt by then: send again, which is harmless */

static char receipt_topic[160];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t told = PTHREAD_COND_INITIALIZER;
static char awaited[16]; /* the mark of the reading that waits for its receipt; "" = none */

static void on_connect(struct mosquitto *device, void *data, int code, int flags, const mosquitto_property *properties) {
    (void)data, (void)flags, (void)properties;
    if (code == 0) mosquitto_subscribe(device, NULL, receipt_topic, 1); /* again on every connection */
}

static void on_message(struct mosquitto *device, void *data, const struct mosquitto_message *message,
                       const mosquitto_property *properties) {
    void *mark = NULL;
    uint16_t length = 0;
    (void)device, (void)data;
    mosquitto_property_read_binary(properties, MQTT_PROP_CORRELATION_DATA, &mark, &length, false);
    pthread_mutex_lock(&lock);
    /* An earlier reading may be told twice. */
    if (mark && length > 0 && length == strlen(awaited) && memcmp(mark, awaited, length) == 0) {
        /* Stored now or before: done. In conflict or refused: sending it again will not help, somebody should look. */
        printf("reading %s: %.*s\n", awaited, message->payloadlen, (const char *)message->payload);
        fflush(stdout);
        awaited[0] = '\0';
        pthread_cond_signal(&told);
    }
    pthread_mutex_unlock(&lock);
    free(mark);
}

static int measure(const char *device_id, char *payload, size_t size) {
    struct timespec now;
    struct tm utc;
    char seconds[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &utc);
    return snprintf(payload, size,
                    "{\"meterId\":\"%s\",\"kwhConsumedAc\":%.4f,\"voltage\":230.0,\"timestamp\":\"%s.%06ldZ\"}", device_id,
                    0.5 * rand() / RAND_MAX, seconds, now.tv_nsec / 1000);
}

static void send_reading(struct mosquitto *device, const char *topic, const char *mark, const char *payload, int length) {
    mosquitto_property *asked = NULL;
    mosquitto_property_add_string(&asked, MQTT_PROP_RESPONSE_TOPIC, receipt_topic);
    mosquitto_property_add_binary(&asked, MQTT_PROP_CORRELATION_DATA, mark, (uint16_t)strlen(mark)); /* comes back */
    mosquitto_publish_v5(device, NULL, topic, length, payload, 1, false, asked);
    mosquitto_property_free_all(&asked);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: %s DEVICE HOST PORT COUNT\n", argv[0]);
        return 2;
    }
    const char *device_id = argv[1];
    char topic[160];
    snprintf(topic, sizeof topic, "v1/telemetry/meter/%s", device_id);
    snprintf(receipt_topic, sizeof receipt_topic, "v1/receipts/%s/readings", device_id);

    mosquitto_lib_init();
    struct mosquitto *device = mosquitto_new(device_id, true, NULL);
    mosquitto_int_option(device, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
    mosquitto_connect_v5_callback_set(device, on_connect);
    mosquitto_message_v5_callback_set(device, on_message);
    mosquitto_connect_async(device, argv[2], atoi(argv[3]), 60);
    mosquitto_loop_start(device); /* connects, and connects again */

    for (int number = 0; number < atoi(argv[4]); number++) {
        char payload[256], mark[sizeof awaited];
        int length = measure(device_id, payload, sizeof payload);
        snprintf(mark, sizeof mark, "%d", number);
        pthread_mutex_lock(&lock);
        strcpy(awaited, mark);
        while (awaited[0] != '\0') {
            struct timespec until;
            pthread_mutex_unlock(&lock); /* libmosquitto may call on_message inside a publish */
            send_reading(device, topic, mark, payload, length);
            pthread_mutex_lock(&lock);
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_sec += RECEIPT_SECONDS;
            while (awaited[0] != '\0' && pthread_cond_timedwait(&told, &lock, &until) == 0) {
            }
            if (awaited[0] != '\0') {
                printf("no receipt of reading %s yet, sending it again\n", mark);
                fflush(stdout);
            }
        }
        pthread_mutex_unlock(&lock);
    }
    mosquitto_disconnect(device);
    mosquitto_loop_stop(device, false);
    mosquitto_destroy(device);
    mosquitto_lib_cleanup();
    return 0;
}
