#pragma once
// What `lowkey probe` looks at: a model, and a text or else conversations that the model has with
// itself.
#include <string>
#include <vector>

#include "core/progress.h"
#include "engine/engine.h"
#include "tune/calibration.h"
#include "verbs.h"

namespace lowkey {

struct ProbeSubject {
  // Throws Error: as read_file and Engine. The text is read before anything takes time.
  ProbeSubject(const ProbeVerbOptions& options, const ProgressFn& progress);

  std::string name() const;        // of the model's file or folder
  std::string texts_name() const;  // for people

  const ProbeVerbOptions& options;
  const std::string text;                               // empty without --text
  const std::vector<tune::Conversation> conversations;  // empty with it
  Engine engine;
};

}  // namespace lowkey
