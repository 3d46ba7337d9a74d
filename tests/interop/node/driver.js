// Runs ali-ons on behalf of a test: one JSON object a line on standard input asks for something
// ({"id": 7, "do": "send", ...}), one JSON object a line on standard output answers it ({"id": 7, "result": ...}
// or {"id": 7, "error": {"type", "code", "message"}}). Asks are worked off one after the other; the end of
// standard input ends the process. One process serves one cluster: ali-ons shares its inner producer.
'use strict';

const readline = require('node:readline');
const { Consumer, Message, Producer } = require('ali-ons');

const logger = { debug() {}, info() {}, warn: console.error, error: console.error };
const running = new Map();
let instances = 0;

function options(ask) {
  instances += 1;
  return {
    logger,
    httpclient: {}, // wanted by ali-ons, used only to ask Aliyun for its name servers
    nameSrv: ask.namesrv.split(';'),
    sendMsgTimeout: 30000,
    instanceName: `node-${process.pid}-${instances}`,
  };
}

function find(name) {
  if (!running.has(name)) {
    throw new Error(`nothing called ${name} is running`);
  }
  return running.get(name);
}

async function startProducer(ask) {
  const client = new Producer({ ...options(ask), producerGroup: ask.group });
  client.on('error', err => console.error(err));
  await client.ready();
  running.set(ask.name, { client });
  return null;
}

function message(from) {
  const made = new Message(from.topic, from.tags, from.body);
  if (from.keys) {
    made.keys = from.keys.split(' ');
  }
  Object.assign(made.properties, from.properties);
  return made;
}

async function send(ask) {
  const { client } = find(ask.name);
  const results = [];
  for (const each of ask.messages) {
    const result = await client.send(message(each));
    results.push({
      status: result.sendStatus,
      topic: result.messageQueue.topic,
      broker: result.messageQueue.brokerName,
      queue_id: Number(result.messageQueue.queueId),
      msg_id: result.msgId,
      offset_msg_id: result.offsetMsgId,
      queue_offset: Number(result.queueOffset),
    });
  }
  return results;
}

function seen(msg, queue) {
  return {
    topic: msg.topic,
    broker: queue.brokerName,
    queue_id: msg.queueId,
    queue_offset: Number(msg.queueOffset),
    commit_log_offset: Number(msg.commitLogOffset),
    msg_id: msg.msgId,
    tags: msg.tags ?? null,
    keys: msg.keys ?? null,
    properties: msg.properties,
    body: msg.body.toString(),
    body_base64: msg.body.toString('base64'),
    born_ms: Number(msg.bornTimestamp),
    born_host: msg.bornHost,
    store_ms: Number(msg.storeTimestamp),
    store_host: msg.storeHost,
    reconsume_times: msg.reconsumeTimes,
    sys_flag: msg.sysFlag,
  };
}

async function startConsumer(ask) {
  const client = new Consumer({
    ...options(ask),
    consumerGroup: ask.group,
    isBroadcast: ask.broadcast === true,
    consumeFromWhere: `CONSUME_FROM_${ask.from ?? 'LAST_OFFSET'}`,
    rebalanceInterval: 1000,
  });
  client.on('error', err => console.error(err));
  const started = { client, messages: [], waiting: null };
  client.subscribe(ask.topic, ask.filter ?? '*', async (msg, queue) => {
    started.messages.push(seen(msg, queue));
    started.waiting?.();
  });
  await client.ready();
  running.set(ask.name, started);
  return null;
}

// All that came so far, once that is "count" messages or "wait_ms" are over.
async function received(ask) {
  const consumer = find(ask.name);
  const end = Date.now() + (ask.wait_ms ?? 0);
  while (consumer.messages.length < (ask.count ?? 0) && Date.now() < end) {
    await new Promise(resolve => {
      const timer = setTimeout(resolve, end - Date.now());
      consumer.waiting = () => { clearTimeout(timer); resolve(); };
    });
  }
  return consumer.messages;
}

async function stop(ask) {
  const found = running.get(ask.name);
  running.delete(ask.name);
  await found?.client.close();
  return found !== undefined;
}

const commands = {
  hello: async () => ({ pid: process.pid }),
  start_producer: startProducer,
  send,
  start_consumer: startConsumer,
  received,
  stop,
};

async function work(ask) {
  try {
    if (!(ask.do in commands)) {
      throw new Error(`unknown verb ${ask.do}`);
    }
    return { id: ask.id, result: await commands[ask.do](ask) };
  } catch (err) {
    console.error(err);
    return { id: ask.id, error: { type: err.name, code: err.code ?? -1, message: err.message } };
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    process.stdout.write(JSON.stringify(await work(JSON.parse(line))) + '\n');
  }
  process.exit(0);
}

main();
