"""What a user of the anthropic package does, one thing for each line of input, several at a time."""

import json
import sys
import threading

import anthropic

MESSAGES = [{"role": "user", "content": "hi"}]
# As many as the other clients have where they ask for no length
LENGTH = {"max_tokens": 4096}


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def models(client, asked):
    return [model.id for model in client.models.list()]


def chat(client, asked):
    return text_of(client.messages.create(model=asked["model"], messages=MESSAGES, **LENGTH))


def stream(client, asked):
    texts = []
    with client.messages.stream(model=asked["model"], messages=MESSAGES, **LENGTH) as events:
        for text in events.text_stream:
            texts.append(text)
            if asked["leave_after"] is not None and len(texts) >= asked["leave_after"]:
                break
    return texts


def tool(client, asked):
    tools = [{"name": "weather", "input_schema": asked["parameters"]}]
    ask = {"model": asked["model"], "tools": tools, **LENGTH}
    if asked["streamed"]:
        with client.messages.stream(messages=MESSAGES, **ask) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(messages=MESSAGES, **ask)
    call = next(block for block in message.content if block.type == "tool_use")
    told = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    said = [{"role": "assistant", "content": message.content}, {"role": "user", "content": [told]}]
    answer = client.messages.create(messages=[*MESSAGES, *said], **ask)
    return {"city": call.input["city"], "answer": text_of(answer)}


DOES = {"models": models, "chat": chat, "stream": stream, "tool": tool}


def answer(asked):
    client = anthropic.Anthropic(api_key=asked["key"], base_url=asked["url"])
    try:
        said = {"result": DOES[asked["does"]](client, asked)}
    except anthropic.APIStatusError as error:
        said = {"status": error.status_code}
    except Exception as error:
        said = {"error": repr(error)}
    print(json.dumps({"id": asked["id"], **said}), flush=True)


for line in sys.stdin:
    threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
