# The one build description is CMakeLists.txt. node-gyp (node-gyp-build's source fallback, prebuildify) only runs cmake-js here.
{
  "targets": [
    {
      "target_name": "node_infinity",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake_js",
          "message": "building node_infinity.node with CMake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["<(PRODUCT_DIR)/node_infinity.node"],
          "action": ["node", "scripts/build-addon.mjs", "<(CONFIGURATION_NAME)"]
        }
      ]
    }
  ]
}
