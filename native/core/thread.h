// How the threads that compute stand towards the thread that runs JavaScript.
#pragma once

namespace infinity {

// Called by a thread that will do nothing but compute: whoever wakes for an event goes before it.
void yieldToEventLoop();

}  // namespace infinity
