// A client of SEGS Detailer for Node: one unary gRPC call of Triton's model `segs_detailer`.
// The contract of the JSON: docs/contract.md.

import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const MODEL = "segs_detailer";
const LARGEST_MESSAGE = 2 ** 31 - 1;
const PROTO = fileURLToPath(new URL("inference.proto", import.meta.url));

// Requests may be repeated: the same seed makes the same picture. gRPC does it by itself, within the
// deadline, with jitter.
const SERVICE_CONFIG = {
  methodConfig: [
    {
      name: [{ service: "inference.GRPCInferenceService", method: "ModelInfer" }],
      retryPolicy: {
        maxAttempts: 5,
        initialBackoff: "0.5s",
        maxBackoff: "15s",
        backoffMultiplier: 3,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
};

const CHANNEL_OPTIONS = {
  "grpc.max_send_message_length": LARGEST_MESSAGE,
  "grpc.max_receive_message_length": LARGEST_MESSAGE,
  // A call may be silent for minutes, which what lies between must not take for its end.
  "grpc.keepalive_time_ms": 60_000,
  "grpc.keepalive_timeout_ms": 20_000,
  "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
  // A request that may be sent again is kept that long; pictures are larger than the default.
  "grpc.per_rpc_retry_buffer_size": 256 * 2 ** 20,
  "grpc.retry_buffer_size": 1024 * 2 ** 20,
};

/** A call that failed: `code` of the contract, and what the server said of it. */
export class SegsError extends Error {
  constructor(detail) {
    super(detail.message);
    this.name = "SegsError";
    this.detail = detail;
    this.code = detail.code;
    this.requestId = detail.request_id;
  }
}

export class SegsClient {
  /**
   * @param {string} url host:port of Triton's gRPC
   * @param {{apiKey?: string, tls?: boolean, ca?: Buffer}} [options]
   */
  constructor(url, { apiKey, tls = false, ca } = {}) {
    const definition = protoLoader.loadSync(PROTO, { keepCase: true, longs: String, oneofs: true });
    const { inference } = grpc.loadPackageDefinition(definition);
    const credentials =
      tls || ca ? grpc.credentials.createSsl(ca ?? null) : grpc.credentials.createInsecure();
    this.stub = new inference.GRPCInferenceService(url, credentials, CHANNEL_OPTIONS);
    this.metadata = new grpc.Metadata();
    if (apiKey) this.metadata.set("x-api-key", apiKey);
  }

  close() {
    this.stub.close();
  }

  /** Whether the server accepts requests now. */
  ready(timeoutMs = 5000) {
    return new Promise((resolve) => {
      const options = { deadline: Date.now() + timeoutMs };
      this.stub.modelReady({ name: MODEL }, this.metadata, options, (error, answer) =>
        resolve(!error && answer.ready),
      );
    });
  }

  /**
   * Redraws the segments of a picture.
   *
   * @param {Buffer} image a PNG, JPEG or WebP file
   * @param {object} request the contract's JSON: pipeline, segs, prompt …
   * @param {{timeoutS?: number, requestId?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<{image: Buffer, report: object}>}
   * @throws {SegsError}
   */
  detail(image, request, { timeoutS = 300, requestId = randomUUID(), signal } = {}) {
    const text = Buffer.from(JSON.stringify(request));
    const message = {
      model_name: MODEL,
      id: requestId,
      // Triton's own time limit, in microseconds; gRPC's deadline ends the call here.
      parameters: { timeout: { int64_param: String(Math.round(timeoutS * 1e6)) } },
      inputs: [
        { name: "request", datatype: "BYTES", shape: ["1"] },
        { name: "image", datatype: "UINT8", shape: [String(image.length)] },
      ],
      raw_input_contents: [withLength(text), image],
    };
    return new Promise((resolve, reject) => {
      const options = { deadline: Date.now() + timeoutS * 1000 };
      const call = this.stub.modelInfer(message, this.metadata, options, (error, answer) => {
        if (error) reject(new SegsError(detailOf(error, requestId)));
        else resolve(resultOf(answer));
      });
      signal?.addEventListener("abort", () => call.cancel(), { once: true });
    });
  }
}

/** An element of a BYTES tensor is preceded by its length, little-endian. */
function withLength(bytes) {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return Buffer.concat([length, bytes]);
}

function resultOf(answer) {
  const outputs = Object.fromEntries(
    answer.outputs.map(({ name }, index) => [name, answer.raw_output_contents[index]]),
  );
  return { image: outputs.detailed_image, report: JSON.parse(outputs.report.toString()) };
}

/** The server's own account is the last line of the status message; else gRPC's has to do. */
function detailOf(error, requestId) {
  const last = error.details.trimEnd().split("\n").at(-1);
  try {
    const detail = JSON.parse(last);
    if (detail.code) return { request_id: requestId, ...detail };
  } catch {
    // not one of the server's
  }
  return { code: grpc.status[error.code], message: error.details, request_id: requestId };
}
