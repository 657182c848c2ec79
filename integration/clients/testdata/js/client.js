// Sends equal records with the OpenTelemetry JavaScript SDK, unchanged, and prints as JSON how many it emitted, and for how many of them
// the SDK's exporter gave up: those may be stored, or not.
// usage: node client.js http|proto|grpc simple|batch HOST:PORT SERVICE SCALE
const [protocol, mode, address, service, scaleText] = process.argv.slice(2);
const scale = Number(scaleText);
const otel = (name) => require('@opentelemetry/' + name);
const { diag, DiagConsoleLogger, DiagLogLevel } = otel('api');
const { resourceFromAttributes } = otel('resources');
const { LoggerProvider, BatchLogRecordProcessor, SimpleLogRecordProcessor } = otel('sdk-logs');
const { BasicTracerProvider, BatchSpanProcessor, SimpleSpanProcessor } = otel('sdk-trace-base');
const { MeterProvider, PeriodicExportingMetricReader } = otel('sdk-metrics');

// Standard output holds the counts only.
const complain = new Console(process.stderr);
function Console(stream) { return new console.Console(stream, stream); }
diag.setLogger({ error: (...a) => complain.error(...a), warn: (...a) => complain.error(...a), info() {}, debug() {}, verbose() {} }, { logLevel: DiagLogLevel.WARN });

const url = (path) => (protocol === 'grpc' ? `http://${address}` : `http://${address}/v1/${path}`);
const resource = resourceFromAttributes({ 'service.name': service });
const emitted = { logs: 0, spans: 0, metrics: 0, gave_up: { logs: 0, spans: 0, metrics: 0 } };
const pointsOf = (data) => data.scopeMetrics.flatMap((s) => s.metrics).reduce((n, m) => n + m.dataPoints.length, 0);
// exporter is the SDK's; the records of a request that it does not bring through are counted.
function exporter(signal, cls, path) {
  const inner = new (otel(`exporter-${signal}-otlp-${protocol}`)[cls])({ url: url(path), timeoutMillis: 20000 });
  const table = { logs: 'logs', trace: 'spans', metrics: 'metrics' }[signal];
  const send = inner.export.bind(inner);
  inner.export = (data, done) => {
    const records = signal === 'metrics' ? pointsOf(data) : data.length;
    if (signal === 'metrics') emitted.metrics += records;
    send(data, (result) => {
      if (result.code !== 0) emitted.gave_up[table] += records;
      done(result);
    });
  };
  return inner;
}
// Simple processors make one request a record, of which an exporter has 30 at a time and drops the rest: pauses keep it below.
const burst = mode === 'simple' ? 10 : 500;
const batch = { maxQueueSize: 1e6, maxExportBatchSize: 512, scheduledDelayMillis: 200 };

// flushed waits for what was sent. An answer that was lost for good is said on standard error; what was emitted stays counted.
async function flushed(...these) {
  for (const one of these) await one.forceFlush().catch((e) => complain.error(e));
}

async function logs() {
  const e = exporter('logs', 'OTLPLogExporter', 'logs');
  const processor = mode === 'simple' ? new SimpleLogRecordProcessor({ exporter: e }) : new BatchLogRecordProcessor({ exporter: e, ...batch });
  const provider = new LoggerProvider({ resource, processors: [processor] });
  const loggers = [provider.getLogger('app'), provider.getLogger('db'), provider.getLogger('db', '2')];
  for (let round = 0; round < (mode === 'simple' ? 6 : 4) * scale; round++) {
    for (let i = 0; i < burst; i++) {
      loggers[i % loggers.length].emit({ severityNumber: 9, severityText: 'INFO', body: 'connection refused, retrying' });
      emitted.logs++;
    }
    await flushed(provider, e); // the simple processor's flush does not wait for its requests
  }
  await provider.shutdown();
}

async function spans() {
  const e = exporter('trace', 'OTLPTraceExporter', 'traces');
  const processor = mode === 'simple' ? new SimpleSpanProcessor(e) : new BatchSpanProcessor(e, batch);
  const provider = new BasicTracerProvider({ resource, spanProcessors: [processor] });
  const tracer = provider.getTracer('app');
  for (let round = 0; round < (mode === 'simple' ? 6 : 4) * scale; round++) {
    for (let i = 0; i < burst; i++) {
      tracer.startSpan('GET /health').end();
      emitted.spans++;
    }
    await flushed(provider, e);
  }
  await provider.shutdown();
}

async function metrics() {
  const e = exporter('metrics', 'OTLPMetricExporter', 'metrics');
  const provider = new MeterProvider({ resource, readers: [new PeriodicExportingMetricReader({ exporter: e, exportIntervalMillis: 1e8, exportTimeoutMillis: 1e7 })] });
  const meters = [provider.getMeter('pool'), provider.getMeter('pool', '', { schemaUrl: 'https://example.com/1' }), provider.getMeter('pool', '2')];
  const instruments = meters.map((m) => ({ size: m.createGauge('pool.size'), taken: m.createCounter('pool.taken'), wait: m.createHistogram('pool.wait') }));
  for (let round = 0; round < 5 * scale; round++) {
    for (const i of instruments) {
      i.size.record(7);
      i.taken.add(1);
      i.wait.record(0.5);
    }
    await flushed(provider);
  }
  await provider.shutdown();
}

(async () => {
  await logs();
  await spans();
  await metrics();
  console.log(JSON.stringify(emitted));
})().catch((e) => { complain.error(e); process.exit(1); });
